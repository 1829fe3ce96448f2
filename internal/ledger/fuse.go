package ledger

import "sync"

// fuse keeps the work on one batch from waiting for one timeout after another: after a failure nothing is tried any more. It is
// for one batch; the next one has a new fuse. The zero value is ready for use.
type fuse struct {
	mu    sync.Mutex
	blown error
}

// try does it, unless something failed before: then it returns that error.
func (f *fuse) try(do func() error) error {
	f.mu.Lock()
	err := f.blown
	f.mu.Unlock()
	if err != nil {
		return err
	}
	if err = do(); err != nil {
		f.mu.Lock()
		f.blown = err
		f.mu.Unlock()
	}
	return err
}
