//go:build faults

package faults

import (
	"context"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/activity-core/activity-core/internal/testenv"
	"github.com/activity-core/activity-core/test/system"
)

func TestMain(m *testing.M) { os.Exit(system.Main(m, 16)) }

// settled is how long after its time a slot may be judged and done, at the worst: the watchdog's look (5 s), the sweeper's turn
// (15 s after the slot, and its look of 2 s), the timeouts of what a killed process held (10 s), and a busy machine.
const settled = 60 * time.Second

// startAPIAlone starts an API whose Temporal is away, so that only the workers can write schedules.
func startAPIAlone(s *system.System) {
	s.T.Helper()
	s.Launch("api", "TEMPORAL_HOST=127.0.0.1:1")
	testenv.Eventually(s.T, 30*time.Second, "the API answers", func(ctx context.Context) (bool, error) {
		return system.HTTPOK(ctx, "http://"+s.APIAddr+"/healthz"), nil
	})
}

// remove deletes a definition.
func remove(s *system.System, id string) {
	s.T.Helper()
	if status, answer := s.Call(http.MethodDelete, "/activity-definitions/"+id, ""); status != http.StatusNoContent {
		s.T.Fatalf("delete answered %d: %v", status, answer)
	}
}
