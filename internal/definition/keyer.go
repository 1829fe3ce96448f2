package definition

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"unicode/utf8"

	jsonv2 "github.com/go-json-experiment/json"

	"github.com/activity-core/activity-core/internal/expression"
)

// Keyer gives occurrences of one revision of a definition their concurrency keys. The expression is compiled when it is evaluated
// for the first time, and once. A nil Keyer is that of a definition without a key. It is safe for concurrent use.
type Keyer struct {
	name        string
	labels      map[string]string
	concurrency Concurrency

	once     sync.Once
	compiled *expression.Expression
	err      error
}

// Keyer returns what gives the occurrences of the document's revision their keys.
func (d *Document) Keyer() *Keyer {
	if d.Concurrency == nil || d.Concurrency.Key == "" {
		return nil
	}
	return &Keyer{name: d.Name, labels: d.Labels, concurrency: *d.Concurrency}
}

// DecodeStoredRoute reads what the router has to know of a stored revision, as DecodeStored does, without the rest.
func DecodeStoredRoute(document []byte) (Trigger, *Keyer, error) {
	var d struct {
		Name        string            `json:"name"`
		Labels      map[string]string `json:"labels"`
		Trigger     Trigger           `json:"trigger_config"`
		Concurrency *Concurrency      `json:"concurrency"`
	}
	if err := jsonv2.Unmarshal(document, &d); err != nil {
		return Trigger{}, nil, fmt.Errorf("decode stored definition: %w", err)
	}
	return d.Trigger, (&Document{Name: d.Name, Labels: d.Labels, Concurrency: d.Concurrency}).Keyer(), nil
}

// Set evaluates the key for an occurrence whose other fields are set, and notes it there, or why it cannot be evaluated.
func (k *Keyer) Set(ctx context.Context, o *Occurrence) {
	if k == nil {
		return
	}
	key, err := k.eval(ctx, o)
	if err != nil {
		o.KeyError = err.Error()
		return
	}
	o.ConcurrencyKey = key
}

func (k *Keyer) eval(ctx context.Context, o *Occurrence) (string, error) {
	k.once.Do(func() { k.compiled, k.err = k.concurrency.KeyExpression() })
	if k.err != nil {
		return "", fmt.Errorf("concurrency.key cannot be compiled: %w", k.err)
	}
	values, err := o.Values(k.name, k.labels)
	if err != nil {
		return "", err
	}
	key, err := k.compiled.Text(ctx, values)
	if err != nil {
		return "", err
	}
	if n := utf8.RuneCountInString(key); n > MaxConcurrencyKey {
		return "", fmt.Errorf("concurrency.key: the value is %d characters long; at most %d are allowed", n, MaxConcurrencyKey)
	}
	if strings.ContainsRune(key, 0) || !utf8.ValidString(key) {
		return "", errors.New("concurrency.key: the value holds a character that cannot be stored")
	}
	return key, nil
}
