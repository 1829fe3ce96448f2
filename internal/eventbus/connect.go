package eventbus

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
)

// ConnectOptions say how to reach NATS.
type ConnectOptions struct {
	// URL is one or more nats:// or tls:// URLs with commas between them. Required.
	URL string
	// Creds is the path of a credentials file; empty for none.
	Creds string
	// Name is shown to operators of the server. Required.
	Name string
	// InboxPrefix replaces "_INBOX", so that a user's rights can be limited to inboxes of its own: who may subscribe to
	// "_INBOX.>" reads the answers to everybody. Empty leaves it.
	InboxPrefix string
	// Unbuffered makes publishing fail at once while the server is away, for a caller that tries again and wants to know.
	// Otherwise up to 8 MiB are kept and sent when it is back.
	Unbuffered bool
	// Log gets the connection's ups and downs. Required.
	Log *slog.Logger
}

// Connect returns a connection that looks for the server until it is closed: at the start as well as after a loss. That
// the server is away is no error; options that can never work are one.
func Connect(o ConnectOptions) (*nats.Conn, error) {
	switch {
	case o.URL == "":
		return nil, errors.New("connect to NATS: URL is missing")
	case o.Name == "":
		return nil, errors.New("connect to NATS: Name is missing")
	case o.Log == nil:
		return nil, errors.New("connect to NATS: Log is missing")
	}
	trouble := &trouble{log: o.Log}
	options := []nats.Option{
		nats.Name(o.Name),
		nats.Timeout(2 * time.Second),
		nats.RetryOnFailedConnect(true),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(500 * time.Millisecond),
		nats.ReconnectJitter(250*time.Millisecond, time.Second),
		// A server that vanished without a word is noticed within 30 s.
		nats.PingInterval(10 * time.Second),
		nats.MaxPingsOutstanding(2),
		nats.ConnectHandler(func(nc *nats.Conn) { trouble.over(nc) }),
		nats.ReconnectHandler(func(nc *nats.Conn) { trouble.over(nc) }),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) { trouble.again(err) }),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				o.Log.Warn("lost the connection to NATS, trying again", "error", err)
			}
		}),
		// A right that is missing shows up here, while the call that needed it sees no more than a timeout.
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			subject := ""
			if sub != nil {
				subject = sub.Subject
			}
			o.Log.Warn("NATS reported an error", "error", err, "subject", subject)
		}),
	}
	if o.Unbuffered {
		options = append(options, nats.ReconnectBufSize(-1))
	}
	if o.Creds != "" {
		options = append(options, nats.UserCredentials(o.Creds))
	}
	if o.InboxPrefix != "" {
		options = append(options, nats.CustomInboxPrefix(o.InboxPrefix))
	}
	nc, err := nats.Connect(o.URL, options...)
	if err != nil {
		return nil, fmt.Errorf("connect to NATS: %w", err)
	}
	return nc, nil
}

// trouble logs a failure to connect once, not at every try. NATS calls its handlers one after another.
type trouble struct {
	log  *slog.Logger
	last string
}

func (t *trouble) again(err error) {
	if err == nil || err.Error() == t.last {
		return
	}
	t.last = err.Error()
	t.log.Warn("cannot connect to NATS (NATS_URL), trying again", "error", err)
}

func (t *trouble) over(nc *nats.Conn) {
	t.last = ""
	t.log.Info("connected to NATS", "server", nc.ConnectedUrlRedacted())
}

// closeTimeout is how long Close waits for what was sent to reach the server.
const closeTimeout = 2 * time.Second

// Close sends what is still buffered, so that no acknowledgement is lost, and closes the connection.
func Close(nc *nats.Conn) {
	if nc.IsConnected() {
		_ = nc.FlushTimeout(closeTimeout) // what is lost here is delivered again, and finds its rows in the ledger
	}
	nc.Close()
}
