package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/activity-core/activity-core/internal/access"
	"github.com/activity-core/activity-core/internal/postgres"
	"github.com/activity-core/activity-core/internal/testenv"
)

// TestAccessIsAskedForByDefault starts the API where others can reach it, with nothing said about access: it asks who calls.
func TestAccessIsAskedForByDefault(t *testing.T) {
	t.Parallel()
	database := testenv.DatabaseURL(t)
	env := accessEnv(t, database)
	env["ACTCORE_API_ADDR"] = "0.0.0.0:0"
	address, logged := startAPI(t, env)
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	base := "http://127.0.0.1:" + port

	for _, credential := range []string{"", "Bearer " + access.NewToken(), "Basic YTpi"} {
		status, header, body := ask(t, base+"/runs", credential)
		if status != http.StatusUnauthorized || !strings.HasPrefix(header.Get("WWW-Authenticate"), `Bearer realm="activity-core"`) ||
			!strings.Contains(body, "unauthorized") {
			t.Errorf("with %q: %d %v %s", credential, status, header, body)
		}
	}
	if status, _, _ := ask(t, base+"/healthz", ""); status != http.StatusOK {
		t.Errorf("/healthz: %d", status)
	}
	token := access.NewToken()
	_, err = postgres.New(testenv.OpenPool(t, database)).CreateToken(t.Context(),
		access.TokenRequest{Name: "boot", Role: access.Viewer, Lifetime: time.Hour}, token)
	if err != nil {
		t.Fatal(err)
	}
	if status, _, body := ask(t, base+"/whoami", "Bearer "+token); status != http.StatusOK || !strings.Contains(body, `"name":"boot"`) {
		t.Errorf("whoami: %d %s", status, body)
	}
	if strings.Contains(logged.String(), token) || strings.Contains(logged.String(), "everybody may do everything") {
		t.Errorf("logged:\n%s", logged)
	}
}

// TestAccessOff holds that switching it off is told in the log, once, and is refused where others can reach the API.
func TestAccessOff(t *testing.T) {
	t.Parallel()
	env := accessEnv(t, testenv.DatabaseURL(t))
	env["ACTCORE_AUTH"], env["ACTCORE_API_ADDR"] = "off", "127.0.0.1:0"
	address, logged := startAPI(t, env)
	for range 2 {
		if status, _, body := ask(t, "http://"+address+"/whoami", ""); status != http.StatusOK || !strings.Contains(body, `"id":"anonymous"`) {
			t.Errorf("whoami: %d %s", status, body)
		}
	}
	testenv.Eventually(t, 10*time.Second, "the warning is logged", func(context.Context) (bool, error) {
		return strings.Contains(logged.String(), "everybody may do everything"), nil
	})
	if n := strings.Count(logged.String(), "everybody may do everything"); n != 1 {
		t.Errorf("told %d times:\n%s", n, logged)
	}

	for _, reachable := range []string{"0.0.0.0:0", ":0", "[::]:0", "192.0.2.1:8010"} {
		env["ACTCORE_API_ADDR"] = reachable
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second) // it must not serve
		err := run(ctx, nil, func(name string) string { return env[name] }, io.Discard)
		cancel()
		var coded interface{ ExitCode() int }
		if !errors.As(err, &coded) || coded.ExitCode() != 2 || !strings.HasPrefix(err.Error(), "ACTCORE_AUTH is off while ACTCORE_API_ADDR is ") ||
			strings.Contains(err.Error(), "\n") {
			t.Errorf("on %s: %v", reachable, err)
		}
	}
}

// accessEnv is an environment that says nothing about access.
func accessEnv(t *testing.T, database string) map[string]string {
	t.Helper()
	return map[string]string{
		"ACTCORE_DB_URL": database, "TEMPORAL_HOST": testenv.Stack(t).TemporalAddress, "TEMPORAL_NAMESPACE": testenv.Namespace(t),
		"PROMETHEUS_BIND_ADDR": "127.0.0.1:0", "LOG_LEVEL": "debug",
	}
}

// startAPI runs the binary's own run until the test ends, and returns where it listens and what it logs.
func startAPI(t *testing.T, env map[string]string) (string, *testenv.LogBuffer) {
	t.Helper()
	given := map[string]string{}
	for name, value := range env {
		given[name] = value
	}
	ctx, cancel := context.WithCancel(t.Context())
	logged, ended := &testenv.LogBuffer{}, make(chan error, 1)
	go func() { ended <- run(ctx, nil, func(name string) string { return given[name] }, logged) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the end: %v", err)
		}
	})
	var address string
	testenv.Eventually(t, 30*time.Second, "it serves", func(context.Context) (bool, error) {
		select {
		case err := <-ended:
			ended <- err
			return false, errors.Join(errors.New("it ended"), err)
		default:
		}
		if m := regexp.MustCompile(`"msg":"serving","api":"([^"]+)"`).FindStringSubmatch(logged.String()); m != nil {
			address = m[1]
		}
		return address != "", nil
	})
	return address, logged
}

func ask(t *testing.T, url, credential string) (int, http.Header, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if credential != "" {
		r.Header.Set("Authorization", credential)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(data)
}
