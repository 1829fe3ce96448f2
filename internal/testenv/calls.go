package testenv

import (
	"context"
	"strings"
	"sync"

	"google.golang.org/grpc"
)

// Calls counts the calls of a Temporal client by method. Its zero value is ready; Count is the interceptor.
type Calls struct {
	mu sync.Mutex
	by map[string]int
}

// Count is a gRPC interceptor that counts a call and makes it.
func (c *Calls) Count(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker,
	opts ...grpc.CallOption,
) error {
	c.mu.Lock()
	if c.by == nil {
		c.by = map[string]int{}
	}
	c.by[method[strings.LastIndex(method, "/")+1:]]++
	c.mu.Unlock()
	return invoke(ctx, method, req, reply, cc, opts...)
}

// Take returns the counts and begins anew.
func (c *Calls) Take() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	by := c.by
	c.by = nil
	return by
}
