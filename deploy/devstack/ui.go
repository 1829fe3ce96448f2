package main

import (
	"context"
	"fmt"
	"net/http"
	"time"

	uiserver "github.com/temporalio/ui-server/v2/server"
	uiconfig "github.com/temporalio/ui-server/v2/server/config"
	uioptions "github.com/temporalio/ui-server/v2/server/server_options"
)

const uiStartTimeout = 10 * time.Second

// temporalUI is Temporal's web interface in this process.
type temporalUI struct {
	server *uiserver.Server
}

// startUI starts the web interface on a loopback port and returns when it serves. The port must
// be free: the library ends the whole process when it is not.
func startUI(ctx context.Context, port int, temporalAddress string) (*temporalUI, error) {
	if !portFree(port) {
		return nil, fmt.Errorf("start the Temporal UI: port %d is taken", port)
	}
	ui := &temporalUI{server: uiserver.NewServer(uioptions.WithConfigProvider(&uiconfig.Config{
		TemporalGRPCAddress: temporalAddress,
		Host:                loopback,
		Port:                port,
		EnableUI:            true,
		DefaultNamespace:    temporalNamespace,
		DisableNewsFetch:    true,
		HideLogs:            true,
		CORS:                uiconfig.CORS{CookieInsecure: true}, // plain HTTP
	}))}
	go func() { _ = ui.server.Start() }()
	ctx, cancel := context.WithTimeout(ctx, uiStartTimeout)
	defer cancel()
	err := poll(ctx, 20*time.Millisecond, func(ctx context.Context) (bool, error) {
		return httpOK(ctx, "http://"+address(port)+"/healthz")
	})
	if err != nil {
		ui.stop()
		return nil, fmt.Errorf("start the Temporal UI: %w", err)
	}
	return ui, nil
}

func (u *temporalUI) stop() { u.server.Stop() }

// httpOK tells whether a GET of url is answered with a status below 300.
func httpOK(ctx context.Context, url string) (bool, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		return false, fmt.Errorf("GET %s: %s", url, resp.Status)
	}
	return true, nil
}
