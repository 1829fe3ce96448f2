package postgres

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	// poolSize is a process' connections when the URL names no pool_max_conns: enough for its concurrency, and few enough
	// for several replicas of each service on a server that allows a hundred.
	poolSize = 20
	// connectTimeout bounds a connection attempt when the URL names no connect_timeout.
	connectTimeout = 3 * time.Second
)

// Open makes a pool without connecting, so that a service starts while Postgres is away. The program's name is shown in
// pg_stat_activity. The caller closes the pool.
func Open(ctx context.Context, databaseURL, program string) (*pgxpool.Pool, error) {
	c, err := pgxpool.ParseConfig(databaseURL)
	if err != nil {
		return nil, fmt.Errorf("read ACTCORE_DB_URL: %w", err)
	}
	if !strings.Contains(databaseURL, "pool_max_conns") {
		c.MaxConns = poolSize
	}
	if c.ConnConfig.ConnectTimeout == 0 {
		c.ConnConfig.ConnectTimeout = connectTimeout
	}
	c.ConnConfig.RuntimeParams["application_name"] = "activity-core-" + program
	// Statements here are short: compiling one takes far longer than running it, and what makes the planner think of it is a list
	// that stops after a page.
	if _, set := c.ConnConfig.RuntimeParams["jit"]; !set {
		c.ConnConfig.RuntimeParams["jit"] = "off"
	}
	pool, err := pgxpool.NewWithConfig(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("make the Postgres pool: %w", err)
	}
	return pool, nil
}
