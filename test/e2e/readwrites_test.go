package e2e

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/activity-core/activity-core/internal/testenv"
	"github.com/activity-core/activity-core/test/system"
)

// An event that is published after a change was answered meets the definition as it became, whichever API answered and whichever
// router takes the event: 500 changes that let it meet, and 500 that do not.
func TestReadYourWrites(t *testing.T) {
	// Not parallel: a thousand changes and events in a few seconds keep other tests from their times.
	const times = 500
	s := system.New(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addrs := []string{s.APIAddr, l.Addr().String()}
	_ = l.Close()
	for _, addr := range addrs {
		s.Start("api", "ACTCORE_API_ADDR="+addr)
	}
	for range 3 {
		s.Start("event-router")
	}
	calls := 0
	call := func(method, path, body string, want int) system.Object {
		t.Helper()
		s.APIAddr = addrs[calls%len(addrs)] // the other one each time
		calls++
		status, answer := s.Call(method, path, body)
		if status != want {
			t.Fatalf("%s %s answered %d: %v", method, body, status, answer)
		}
		return answer
	}
	published := 0
	publish := func(eventType, id, payload string) {
		t.Helper()
		published++
		s.Publish(eventType, id, fmt.Sprint(published), payload)
	}

	// Four ways to let an event meet. They are undone only when all these events are routed: an event meets the definitions of the
	// moment at which it is routed, so a change just after it may take its run away.
	wanted, paths := map[string]bool{}, make([]string, times)
	for i := range times {
		name, eventType := fmt.Sprintf("d%d", i), fmt.Sprintf("rw.t%d", i)
		create := func(eventType, filters string, enabled bool) string {
			t.Helper()
			return call(http.MethodPost, "/activity-definitions/", fmt.Sprintf(`{"name": %q, "enabled": %v, "trigger_config":
				{"trigger_type": "event", "event_type": %q, "filters": %s},
				"tasks": [{"name": "say", "type": "log", "with": {"message": "x"}}]}`, name, enabled, eventType, filters),
				http.StatusCreated).Str("id")
		}
		var id string
		var change string
		switch i % 4 {
		case 0:
			id = create(eventType, `{"k": 1}`, true)
		case 1:
			id = create("rw.other", `{"k": 1}`, true)
			change = fmt.Sprintf(`{"trigger_config": {"event_type": %q}}`, eventType)
		case 2:
			id = create(eventType, `{"k": 2}`, true)
			change = `{"trigger_config": {"filters": {"k": 1}}}`
		case 3:
			id = create(eventType, `{"k": 1}`, false)
			change = `{"enabled": true}`
		}
		paths[i] = "/activity-definitions/" + id
		if change != "" {
			call(http.MethodPatch, paths[i], change, http.StatusOK)
		}
		publish(eventType, "met-"+name, `{"k": 1}`)
		wanted[id+" event-met-"+name] = true
	}
	s.Routed(30 * time.Second)
	for i, path := range paths {
		if i%8 < 4 {
			call(http.MethodDelete, path, "", http.StatusNoContent)
		} else {
			call(http.MethodPatch, path, `{"enabled": false}`, http.StatusOK)
		}
		publish(fmt.Sprintf("rw.t%d", i), fmt.Sprintf("gone-d%d", i), `{"k": 1}`)
	}
	s.Routed(30 * time.Second)

	var met, gone int
	rows, err := testenv.OpenPool(t, s.Database).Query(t.Context(),
		`SELECT definition_id::text || ' ' || occurrence_key FROM runs`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var key string
		if err := rows.Scan(&key); err != nil {
			t.Fatal(err)
		}
		switch {
		case wanted[key]:
			met++
			delete(wanted, key)
		case strings.Contains(key, " event-gone-"):
			gone++
		default:
			t.Errorf("unwanted row %s", key)
		}
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d of %d events met what was changed before them; %d of %d met what was gone", met, times, gone, times)
	if met != times || gone != 0 {
		t.Errorf("met %d and gone %d, want %d and 0", met, gone, times)
	}
}
