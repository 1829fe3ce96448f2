package execution

import (
	"errors"
	"time"
)

// kindError is a failure of a kind that retry.non_retryable_errors may name, or that is a run's reason.
type kindError struct {
	kind string
	err  error
}

func (e *kindError) Error() string { return e.err.Error() }
func (e *kindError) Unwrap() error { return e.err }

// withKind gives a failure a kind, as in http_404.
func withKind(kind string, err error) error { return &kindError{kind, err} }

// kindOf returns the kind of a failure; "" when it has none.
func kindOf(err error) string {
	var k *kindError
	if errors.As(err, &k) {
		return k.kind
	}
	return ""
}

// delayError is a failure that says how long to wait before another attempt, in the place of the task's own rule.
type delayError struct {
	delay time.Duration
	err   error
}

func (e *delayError) Error() string { return e.err.Error() }
func (e *delayError) Unwrap() error { return e.err }

// withDelay asks for a pause before the next attempt; one of 0 leaves the error as it is.
func withDelay(delay time.Duration, err error) error {
	if delay <= 0 {
		return err
	}
	return &delayError{delay, err}
}

// delayOf returns the pause that was asked for; 0 for none.
func delayOf(err error) time.Duration {
	var asked *delayError
	if errors.As(err, &asked) {
		return asked.delay
	}
	return 0
}
