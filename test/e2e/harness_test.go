// Package e2e holds the built binaries to the main job, on real servers. The harness is test/system.
package e2e

import (
	"context"
	"os"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"go.temporal.io/sdk/client"

	"github.com/activity-core/activity-core/internal/config"
	harness "github.com/activity-core/activity-core/test/system"
)

func TestMain(m *testing.M) { os.Exit(harness.Main(m, 4)) }

// The rest gives the harness short names.

type system struct {
	*harness.System
	t        *testing.T
	names    config.Names
	apiAddr  string
	env      map[string]string
	temporal client.Client
	js       jetstream.JetStream
}

func newSystem(t *testing.T) *system {
	t.Helper()
	return short(harness.New(t))
}

func newSystemOnOwnStack(t *testing.T) *system {
	t.Helper()
	return short(harness.NewOnOwnStack(t))
}

func short(s *harness.System) *system {
	return &system{System: s, t: s.T, names: s.Names, apiAddr: s.APIAddr, env: s.Env, temporal: s.Temporal, js: s.JS}
}

func (s *system) start(name string, env ...string) *process {
	s.t.Helper()
	return &process{s.Start(name, env...)}
}

func (s *system) launch(name string, env ...string) *process {
	s.t.Helper()
	return &process{s.Launch(name, env...)}
}

func (s *system) command(name string, args ...string) string {
	s.t.Helper()
	return s.Command(name, args...)
}

type object map[string]any

func (o object) str(key string) string { return harness.Object(o).Str(key) }

func (s *system) call(method, path, body string) (int, object) {
	s.t.Helper()
	status, answer := s.Call(method, path, body)
	return status, object(answer)
}

func (s *system) tryCall(ctx context.Context, method, path, body string) (int, object, error) {
	status, answer, err := s.TryCall(ctx, method, path, body)
	return status, object(answer), err
}

func (s *system) create(body string) string {
	s.t.Helper()
	return s.Create(body)
}

func (s *system) runs(definitionID string) []object {
	s.t.Helper()
	return objects(s.Runs(definitionID))
}

func (s *system) tryRuns(ctx context.Context, definitionID string) ([]object, error) {
	list, err := s.TryRuns(ctx, definitionID)
	return objects(list), err
}

func objects(list []harness.Object) []object {
	out := make([]object, len(list))
	for i, o := range list {
		out[i] = object(o)
	}
	return out
}

func (s *system) counts(ctx context.Context, definitionID string) (map[string]int, error) {
	return s.Counts(ctx, definitionID)
}

func (s *system) publish(eventType, eventID, msgID, payload string) {
	s.t.Helper()
	s.Publish(eventType, eventID, msgID, payload)
}

func (s *system) workflows(ctx context.Context, query string) (int64, error) {
	return s.Workflows(ctx, query)
}

type process struct{ *harness.Process }

func (p *process) run()        { p.Run() }
func (p *process) waitReady()  { p.WaitReady() }
func (p *process) kill()       { p.Kill() }
func (p *process) stop()       { p.Stop() }
func (p *process) ended() bool { return p.Ended() }

func (p *process) metric(name string, labels ...string) float64 { return p.Metric(name, labels...) }

func httpOK(ctx context.Context, url string) bool { return harness.HTTPOK(ctx, url) }
