package match

import (
	"crypto/sha256"
	"fmt"

	"github.com/activity-core/activity-core/internal/definition"
	"github.com/go-json-experiment/json/jsontext"
)

// DigestBytes is the length of a digest.
const DigestBytes = 16

// Digest returns the first 16 bytes of the SHA-256 of the payload's canonical form. Events whose payloads are equal as JSON
// have the same digest; an absent payload is one without members. It fails only for an event that did not come from the
// parser.
func Digest(e *definition.Event) ([]byte, error) {
	members := make([]memberForm, len(e.Payload))
	for i, m := range e.Payload {
		name, err := jsontext.AppendQuote(nil, m.Name)
		if err != nil {
			return nil, fmt.Errorf("digest of the payload: %w", err)
		}
		form, err := Canonical(nil, m.Value)
		if err != nil {
			return nil, fmt.Errorf("digest of the payload: %s: %w", m.Name, err)
		}
		members[i] = memberForm{name, form}
	}
	sum := sha256.Sum256(appendMembers(nil, members))
	return sum[:DigestBytes], nil
}
