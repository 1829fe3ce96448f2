package e2e

import (
	"context"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/activity-core/activity-core/internal/testenv"
	"github.com/activity-core/activity-core/test/system"
)

// Access from its beginning: the first token comes from the command, the others from the API, and one that is revoked by the command
// is refused within five seconds. Nothing of them is in the log, whatever its level.
func TestAccess(t *testing.T) {
	t.Parallel()
	s := system.New(t)
	api := s.Start("api", "ACTCORE_AUTH=required", "LOG_LEVEL=debug")
	if status, _ := s.Call(http.MethodGet, "/whoami", ""); status != http.StatusUnauthorized {
		t.Errorf("without a token: %d", status)
	}

	boot := strings.TrimSpace(s.Command("tokens", "create", "me", "--role", "admin"))
	call := func(token, method, path, body string) (int, system.Object) {
		t.Helper()
		status, answer, err := s.TryCall(t.Context(), method, path, body, "Authorization", "Bearer "+token)
		if err != nil {
			t.Fatalf("%s %s: %v", method, path, err)
		}
		return status, answer
	}
	if status, me := call(boot, http.MethodGet, "/whoami", ""); status != http.StatusOK || me.Str("name") != "me" || me.Str("role") != "admin" {
		t.Errorf("whoami: %d %v", status, me)
	}
	status, made := call(boot, http.MethodPost, "/tokens", `{"name": "ci", "role": "operator"}`)
	if status != http.StatusCreated || made.Str("created_by") != "me" {
		t.Fatalf("POST /tokens: %d %v", status, made)
	}
	token := made.Str("token")
	if status, answer := call(token, http.MethodPost, "/activity-definitions/", `{"name": "a", "trigger_config": {"trigger_type": "manual"}}`); status !=
		http.StatusForbidden {
		t.Errorf("an operator makes a definition: %d %v", status, answer)
	}
	if status, answer := call(token, http.MethodGet, "/runs", ""); status != http.StatusOK {
		t.Errorf("an operator lists runs: %d %v", status, answer)
	}
	if list := s.Command("tokens", "list"); !regexp.MustCompile(made.Str("id") + ` +ci +operator +- +active `).MatchString(list) {
		t.Errorf("listed:\n%s", list)
	}
	s.Command("tokens", "revoke", made.Str("id"))
	testenv.Within(t, 5*time.Second, "the token is refused", func(ctx context.Context) (bool, error) {
		status, _, err := s.TryCall(ctx, http.MethodGet, "/whoami", "", "Authorization", "Bearer "+token)
		return status == http.StatusUnauthorized, err
	})

	api.Stop()
	logged := api.Log()
	if !strings.Contains(logged, "/whoami") {
		t.Error("the log does not tell of the requests")
	}
	for _, secret := range []string{boot, token} {
		if random := secret[8:38]; strings.Contains(logged, random) {
			t.Errorf("the log holds the token …%s", secret[40:])
		}
	}
}
