// A client that lives as long as the worker: it keeps connections to a Redis
// server, and calls share them. The same shape fits clients of Kafka, NATS or
// databases.
package main

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/lua-resty-nonblocking-ffi/lua-resty-nonblocking-ffi/runtimes/go/nonblockingffi"
	"github.com/redis/go-redis/v9"
)

const (
	badRequest  = 400
	refused     = 422
	unavailable = 503
)

// client is one runtime: a pool of connections to one server.
type client struct {
	redis *redis.Client
}

// Init connects to the server whose URL is the config.
func (c *client) Init(ctx context.Context, config string) error {
	options, err := redis.ParseURL(config)
	if err != nil {
		return err
	}
	// The time that a call has is the time that a command has.
	options.ContextTimeoutEnabled = true
	c.redis = redis.NewClient(options)
	if err := c.redis.Ping(ctx).Err(); err != nil {
		c.redis.Close()
		return err
	}
	nonblockingffi.Logf(ctx, nonblockingffi.LevelNotice, "connected to %s", options.Addr)
	return nil
}

// Call runs a command, a JSON array such as ["INCRBY", "visits", 1], and returns
// its result as JSON. A connection that broke is made again.
func (c *client) Call(ctx context.Context, request []byte) ([]byte, error) {
	var command []any
	if err := json.Unmarshal(request, &command); err != nil || len(command) == 0 {
		return nil, nonblockingffi.Errorf(badRequest, "a JSON array of words expected")
	}
	result, err := c.redis.Do(ctx, command...).Result()
	var reply redis.Error
	switch {
	case errors.Is(err, redis.Nil):
		result = nil
	case errors.As(err, &reply):
		return nil, nonblockingffi.WithCode(refused, err)
	case err != nil:
		return nil, nonblockingffi.WithCode(unavailable, err)
	}
	return json.Marshal(result)
}

// Close ends the connections.
func (c *client) Close() error {
	return c.redis.Close()
}

func init() {
	nonblockingffi.RegisterService("redis", func() nonblockingffi.Service {
		return &client{}
	}, nonblockingffi.ZeroCopy, nonblockingffi.Goroutines)
}

func main() {}
