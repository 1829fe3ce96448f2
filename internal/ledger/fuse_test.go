package ledger

import (
	"errors"
	"testing"
)

// While a server is away, a batch waits for it once and not for each of its rows.
func TestFuse(t *testing.T) {
	t.Parallel()
	var f fuse
	away, tried := errors.New("test: away"), 0
	for i, answer := range []error{nil, nil, away, nil, errors.New("test: another")} {
		err := f.try(func() error {
			tried++
			return answer
		})
		if want := map[bool]error{true: away}[i >= 2]; !errors.Is(err, want) {
			t.Errorf("try %d: %v, want %v", i+1, err, want)
		}
	}
	if tried != 3 {
		t.Errorf("%d were tried, want those up to the first failure", tried)
	}
}
