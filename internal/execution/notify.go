package execution

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/expression"
)

// activitySendNotification is the name of the Temporal activity that sends one notification.
const activitySendNotification = "SendNotification"

// ErrorNotSent is the type of the error of a NotifyRun workflow of whose notifications one could not be sent.
const ErrorNotSent = "NotificationNotSent"

const (
	// notifyAttempt bounds one try to send a notification.
	notifyAttempt = time.Minute
	// maxNotifyPause bounds the pause between two tries.
	maxNotifyPause = 5 * time.Minute
)

// notifyStore is what notifications need of the ledger.
type notifyStore interface {
	// GetEnd returns the end of a run, with its input; ErrNotFound when there is none any more.
	GetEnd(ctx context.Context, runID string) (definition.RunEnd, error)
}

// notifyInput names one notification.
type notifyInput struct {
	RunID string              `json:"run_id"`
	Index int                 `json:"index"`
	On    definition.NotifyOn `json:"on"`
}

// notify sends the notifications of a run's end, side by side: each until it is sent, fails for good, or a day has passed. The
// workflow fails when one of them was not sent, after it has dealt with all.
func (w *workflows) notify(ctx workflow.Context, in definition.NotifyInput) error {
	ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		TaskQueue:              w.taskQueue,
		StartToCloseTimeout:    notifyAttempt,
		ScheduleToCloseTimeout: definition.NotifyTimeout,
		HeartbeatTimeout:       heartbeatTimeout,
		RetryPolicy: &temporal.RetryPolicy{
			InitialInterval: time.Second, BackoffCoefficient: 2, MaximumInterval: maxNotifyPause,
		},
	})
	sent := make([]workflow.Future, len(in.Send))
	for i, order := range in.Send {
		sent[i] = workflow.ExecuteActivity(ctx, activitySendNotification, notifyInput{RunID: in.RunID, Index: order.Index, On: order.On})
	}
	var first error
	for i, s := range sent {
		err := s.Get(ctx, nil)
		if err == nil {
			continue
		}
		workflow.GetLogger(ctx).Warn("a notification was not sent", "run_id", in.RunID, "notification", in.Send[i].Index,
			"on", string(in.Send[i].On), "error", err)
		if first == nil {
			first = err
		}
	}
	var canceled *temporal.CanceledError
	if first == nil || errors.As(first, &canceled) {
		return first
	}
	return temporal.NewNonRetryableApplicationError(failureText(first), ErrorNotSent, nil)
}

// notifier is the Temporal activity that sends notifications, by the runners of tasks.
type notifier struct {
	store   notifyStore
	runners map[definition.TaskType]runner
	secrets *Secrets
	log     *slog.Logger
	sent    *prometheus.CounterVec
}

func newNotifier(store notifyStore, runners map[definition.TaskType]runner, secrets *Secrets, log *slog.Logger,
	registerer prometheus.Registerer) (*notifier, error) {
	n := &notifier{store: store, runners: runners, secrets: secrets, log: log, sent: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "actcore_notifications_total",
		Help: "Tries to send a notification of a run's end, by its type and result: sent, retried (it is tried again, for up to a " +
			"day) and failed (for good).",
	}, []string{"type", "result"})}
	return n, registerer.Register(n.sent)
}

// send makes one try to send a notification.
func (n *notifier) send(ctx context.Context, in notifyInput) error {
	stopBeating := beat(ctx)
	defer stopBeating()
	end, err := n.store.GetEnd(ctx, in.RunID)
	if err != nil {
		return ledgerError(err)
	}
	if in.Index < 0 || in.Index >= len(end.Notify) {
		return temporal.NewNonRetryableApplicationError("the definition's revision has no such notification", errorTask, nil)
	}
	notification := &end.Notify[in.Index]
	err = n.attempt(ctx, &end, notification, in)
	if err == nil {
		n.sent.WithLabelValues(string(notification.Type), "sent").Inc()
		return nil
	}
	// An expression's error may hold a piece of a secret, and the server's words one that it was sent.
	text := oneLine(string(n.secrets.Redact([]byte(err.Error()))))
	if isPermanent(err) {
		n.sent.WithLabelValues(string(notification.Type), "failed").Inc()
		return temporal.NewNonRetryableApplicationError(text, errorTask, nil)
	}
	n.sent.WithLabelValues(string(notification.Type), "retried").Inc()
	return temporal.NewApplicationError(text, errorTask)
}

// attempt writes the notification and has the runner of its type send it. A panic is a failure that is tried again.
func (n *notifier) attempt(ctx context.Context, end *definition.RunEnd, notification *definition.Notification, in notifyInput) (err error) {
	defer func() {
		if p := recover(); p != nil {
			n.log.Error("a notification panicked", "run_id", in.RunID, "notification", in.Index, "panic", fmt.Sprint(p),
				"stack", string(debug.Stack()))
			err = errors.New("internal error of the worker; its log has the details")
		}
	}()
	run, known := n.runners[notification.Type]
	if !known {
		return permanently("%q is not a type of notification that this version of the worker knows", notification.Type)
	}
	with, err := n.write(ctx, end, notification, in.On)
	if err != nil {
		return err
	}
	// The name is part of the idempotency key. No task can have it.
	task := notification.Task(fmt.Sprintf("notify/%d", in.Index))
	task.With = with
	_, err = run(ctx, &definition.TaskWork{Run: end.Run, Task: *task, Item: -1})
	return err
}

// write fills in the expressions, and says what happened where the definition gives nothing to say.
func (n *notifier) write(ctx context.Context, end *definition.RunEnd, notification *definition.Notification, on definition.NotifyOn,
) (json.RawMessage, error) {
	template, err := notification.Template()
	if err != nil {
		return nil, permanently("the notification cannot be read by this version of the worker: %s", err)
	}
	if err := n.secrets.Check(template.Secrets()); err != nil {
		return nil, err
	}
	values, err := end.NotifyValues(on)
	if err != nil {
		return nil, permanently("%s", err)
	}
	values.Secret = n.secrets.Lookup
	with, err := template.Render(ctx, values)
	var wrong *expression.EvalError
	switch {
	case errors.As(err, &wrong):
		return nil, permanently("%s", wrong)
	case err != nil:
		return nil, err
	}
	payload, err := end.Payload(on)
	if err != nil {
		return nil, permanently("the end of the run cannot be written as JSON: %s", err)
	}
	task := definition.Task{Type: notification.Type, With: with}
	switch notification.Type {
	case definition.TaskHTTP:
		var w definition.HTTPTask
		if err := task.Decode(&w); err != nil {
			return nil, undecodable(err)
		}
		if w.Body != nil || w.RawBody != nil || w.Method == http.MethodGet || w.Method == http.MethodHead || w.Method == http.MethodDelete {
			return with, nil
		}
		w.Body = payload
		return plainJSON(w)
	case definition.TaskPublish:
		var w definition.PublishTask
		if err := task.Decode(&w); err != nil {
			return nil, undecodable(err)
		}
		if w.Payload != nil {
			return with, nil
		}
		w.Payload = payload
		return plainJSON(w)
	}
	return with, nil
}
