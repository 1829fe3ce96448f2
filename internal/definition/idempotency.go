package definition

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

const (
	// KeyAge is how long an Idempotency-Key means the request that it was first sent with.
	KeyAge = 24 * time.Hour
	// KeyClaimAge is how long a request with a key has, before another one with it may take over. It is longer than any request
	// may take.
	KeyClaimAge = 12 * time.Second
)

var (
	// ErrClaimLost means that a request with an Idempotency-Key took so long that another one took over; nothing was written.
	ErrClaimLost = errors.New("another request with this idempotency key took over")
	// ErrOutcomeUnknown means that the connection to Postgres broke after a change was sent and before the answer: it may or may not
	// have been made. It comes along with ErrUnavailable.
	ErrOutcomeUnknown = errors.New("it is not known whether the change was made")
)

// KeyClaim is what a request finds that claims its Idempotency-Key: exactly one of ID, Answer, Reused and Wait is set.
type KeyClaim struct {
	// ID names the claim; the request may do what it asks for. Made is the id of what an earlier one made or changed, if any.
	ID, Made string
	// Answer was given to the first request.
	Answer *Answer
	// Reused: the key was sent with another request before.
	Reused bool
	// Wait is how long the request that is at it has left.
	Wait time.Duration
}

// Answer is an HTTP answer that is kept to be given again.
type Answer struct {
	Status int
	// Header has the headers that belong to the answer.
	Header map[string]string
	// Body is nil when there is none, or when it must not be kept.
	Body []byte
}

// Match is the revisions of a definition one of which has to be in force for a write to happen. nil accepts every one; an empty one
// that is not nil accepts none.
type Match []int

// Check returns a *RevisionError unless the revision in force is among those that are accepted.
func (m Match) Check(now int) error {
	if m == nil {
		return nil
	}
	for _, wanted := range m {
		if wanted == now {
			return nil
		}
	}
	return &RevisionError{Wanted: m, Now: now}
}

// RevisionError means that another revision than the wanted ones is in force; nothing was written.
type RevisionError struct {
	Wanted Match
	Now    int
}

func (e *RevisionError) Error() string {
	wanted := make([]string, len(e.Wanted))
	for i, revision := range e.Wanted {
		wanted[i] = strconv.Itoa(revision)
	}
	if len(wanted) == 0 {
		wanted = []string{"none that there is"}
	}
	return fmt.Sprintf("revision %d is in force, and the wanted one is %s", e.Now, strings.Join(wanted, " or "))
}
