package e2e

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/activity-core/activity-core/internal/testenv"
	"github.com/activity-core/activity-core/test/system"
)

const keyHeader = "Idempotency-Key"

// untilAnswered asks again for as long as the claim of a request that died or sleeps lasts.
func untilAnswered(t *testing.T, address, path, body, key string) (status int, answer system.Object) {
	t.Helper()
	testenv.Eventually(t, 20*time.Second, "POST "+path+" is answered", func(ctx context.Context) (bool, error) {
		var err error
		status, answer, err = system.TryCallAt(ctx, address, http.MethodPost, path, body, keyHeader, key)
		return err != nil || status != http.StatusConflict || !strings.HasSuffix(answer.Str("type"), "/idempotency-key-in-use"), err
	})
	return status, answer
}

// The API dies at each moment of a creation and of a trigger: when the key is claimed, before the commit, after it, before the answer
// is kept, and before it is sent. The client asks again with its key, and there is one definition, and one run that succeeds.
func TestAPIKilledAndAskedAgain(t *testing.T) {
	t.Parallel()
	for _, point := range []string{"api-claimed", "committing", "api-committed", "api-made", "api-finished"} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			s := system.New(t)
			api := s.Start("api", "ACTCORE_FAIL="+point+":kill")
			die := func(path, body, key string) {
				t.Helper()
				if status, answer, err := s.TryCall(t.Context(), http.MethodPost, path, body, keyHeader, key); err == nil {
					t.Fatalf("the API was to die, and answered %d: %v", status, answer)
				}
				api.WaitKilled(5 * time.Second)
				delete(api.Env, "ACTCORE_FAIL")
				api.Run()
				api.WaitReady()
			}
			const body = `{"name": "once", "trigger_config": {"trigger_type": "manual"}, "tasks": [{"name": "a", "type": "log", "with": {"message": "b"}}]}`
			die("/activity-definitions/", body, "create")
			status, created := untilAnswered(t, s.APIAddr, "/activity-definitions/", body, "create")
			if status != http.StatusCreated || created.Str("id") != s.Named("once") {
				t.Fatalf("asked again: %d %v", status, created)
			}
			if _, list := s.Call(http.MethodGet, "/activity-definitions/", ""); len(list["items"].([]any)) != 1 {
				t.Errorf("definitions: %v", list)
			}

			path := "/activity-definitions/" + created.Str("id") + "/trigger"
			if point == "api-committed" { // only of changes of definitions
				if status, answer := s.Call(http.MethodPost, path, ""); status != http.StatusAccepted {
					t.Errorf("triggered: %d %v", status, answer)
				}
			} else {
				api.Stop()
				api.Env["ACTCORE_FAIL"] = point + ":kill"
				api.Run()
				api.WaitReady()
				die(path, "", "trigger")
				if status, run := untilAnswered(t, s.APIAddr, path, "", "trigger"); status != http.StatusAccepted || run.Str("id") == "" {
					t.Fatalf("triggered again: %d %v", status, run)
				}
			}
			if point == "api-made" { // it may not have been started: a worker does, after 30 s
				s.Start("worker")
				testenv.Eventually(t, 60*time.Second, "the run succeeds", func(ctx context.Context) (bool, error) {
					counts, err := s.Counts(ctx, created.Str("id"))
					return counts["succeeded"] == 1, err
				})
			}
			if runs := s.Runs(created.Str("id")); len(runs) != 1 {
				t.Errorf("%d runs: %v", len(runs), runs)
			}
		})
	}
}

// A process that holds a claim is stopped for longer than the claim lasts, once before its work and once before its commit. Another
// process takes over, or waits for the commit; when the first one goes on, it makes nothing more.
func TestStoppedAPIMakesNothingTwice(t *testing.T) {
	t.Parallel()
	for _, point := range []string{"api-claimed", "committing"} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			s := system.New(t)
			sleeper := s.Start("api", "ACTCORE_FAIL="+point+":stop")
			other := system.FreeAddr(t)
			s.Start("api", "ACTCORE_API_ADDR="+other)
			const body = `{"name": "once", "trigger_config": {"trigger_type": "manual"}}`
			type result struct {
				status int
				err    error
			}
			slept := make(chan result, 1)
			go func() {
				status, _, err := system.TryCallAt(t.Context(), s.APIAddr, http.MethodPost, "/activity-definitions/", body, keyHeader, "k")
				slept <- result{status, err}
			}()
			began := time.Now()
			testenv.Eventually(t, 20*time.Second, "the first process is stopped", func(ctx context.Context) (bool, error) {
				return !system.HTTPOK(ctx, sleeper.Ready), nil
			})
			if point == "committing" {
				// It has the row of the key locked, and would be waited for.
				testenv.Eventually(t, 20*time.Second, "the claim has passed", func(context.Context) (bool, error) {
					return time.Since(began) > 13*time.Second, nil
				})
				sleeper.Continue()
			}
			status, made := untilAnswered(t, other, "/activity-definitions/", body, "k")
			if status != http.StatusCreated {
				t.Fatalf("the other process: %d %v", status, made)
			}
			if point == "api-claimed" {
				if took := time.Since(began); took < 11*time.Second {
					t.Errorf("another process took over after %s", took)
				}
				sleeper.Continue()
			}
			if a := <-slept; a.err == nil && a.status == http.StatusCreated && point == "api-claimed" {
				t.Errorf("the process that slept answered %d", a.status)
			}
			s.APIAddr = other
			if _, list := s.Call(http.MethodGet, "/activity-definitions/", ""); len(list["items"].([]any)) != 1 {
				t.Errorf("definitions: %v", list)
			}
		})
	}
}
