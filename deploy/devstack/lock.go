package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// lockData makes this process the only devstack on a data folder. The system releases the lock
// when the process ends, however it ends.
func lockData(dataDir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dataDir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock the data folder: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		defer f.Close()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock the data folder %s: %w", dataDir, err)
		}
		pid, _ := io.ReadAll(io.LimitReader(f, 20))
		return nil, &lockedError{dataDir: dataDir, pid: strings.TrimSpace(string(pid))}
	}
	err = f.Truncate(0)
	if err == nil {
		_, err = f.WriteAt(fmt.Appendf(nil, "%d\n", os.Getpid()), 0)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock the data folder: %w", err), f.Close())
	}
	return func() { _ = f.Close() }, nil
}

// lockedError means that another devstack runs on the data folder.
type lockedError struct {
	dataDir string
	pid     string
}

func (e *lockedError) Error() string {
	return fmt.Sprintf("a devstack is already running on %s (process %s); stop it first, with Ctrl-C in its terminal or kill %s",
		e.dataDir, e.pid, e.pid)
}
