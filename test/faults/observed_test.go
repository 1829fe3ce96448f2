//go:build faults

package faults

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.temporal.io/sdk/client"

	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/testenv"
	"github.com/activity-core/activity-core/test/system"
)

// observedLog is every write of an observed revision, in the order of writes: looking now and then could miss one.
type observedLog struct {
	t    *testing.T
	pool *pgxpool.Pool
}

// watchObserved has the installation's database keep the log.
func watchObserved(s *system.System) *observedLog {
	s.T.Helper()
	pool := testenv.OpenPool(s.T, s.Database)
	_, err := pool.Exec(s.T.Context(), `
		CREATE TABLE observed_log (place bigint GENERATED ALWAYS AS IDENTITY, definition_id uuid, was int, became int);
		CREATE FUNCTION log_observed() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			INSERT INTO observed_log (definition_id, was, became) VALUES (NEW.definition_id, OLD.observed, NEW.observed);
			RETURN NULL;
		END $$;
		CREATE TRIGGER log_observed AFTER UPDATE OF observed ON schedule_sync FOR EACH ROW EXECUTE FUNCTION log_observed()`)
	if err != nil {
		s.T.Fatal(err)
	}
	return &observedLog{t: s.T, pool: pool}
}

// leaseIsOver reports whether somebody has held a lease for longer than it lasts.
func (o *observedLog) leaseIsOver(ctx context.Context) (over bool, err error) {
	err = o.pool.QueryRow(ctx, `SELECT EXISTS (SELECT FROM schedule_sync WHERE lease_until < clock_timestamp())`).Scan(&over)
	return over, err
}

// last is the revision that was observed last.
func (o *observedLog) last(definitionID string) (revision int) {
	o.t.Helper()
	err := o.pool.QueryRow(o.t.Context(), `SELECT became FROM observed_log WHERE definition_id = $1 ORDER BY place DESC LIMIT 1`,
		definitionID).Scan(&revision)
	if err != nil {
		o.t.Fatal(err)
	}
	return revision
}

// neverBackwards fails the test for each write that moved an observed revision backwards.
func (o *observedLog) neverBackwards() {
	o.t.Helper()
	var writes, backwards int
	err := o.pool.QueryRow(o.t.Context(), `SELECT count(*), count(*) FILTER (WHERE became < was) FROM observed_log`).
		Scan(&writes, &backwards)
	if err != nil {
		o.t.Fatal(err)
	}
	if o.t.Logf("an observed revision was written %d times", writes); writes == 0 || backwards > 0 {
		o.t.Errorf("the observed revision moved backwards %d times in %d writes", backwards, writes)
	}
}

// onlySchedule holds the namespace to one schedule, the definition's.
func onlySchedule(s *system.System, definitionID string) {
	s.T.Helper()
	list, err := s.Temporal.ScheduleClient().List(s.T.Context(), client.ScheduleListOptions{})
	if err != nil {
		s.T.Fatal(err)
	}
	var ids []string
	for list.HasNext() {
		e, err := list.Next()
		if err != nil {
			s.T.Fatal(err)
		}
		ids = append(ids, e.ID)
	}
	if len(ids) != 1 || ids[0] != definition.ScheduleID(definitionID) {
		s.T.Errorf("the namespace has the schedules %v, want that of %s alone", ids, definitionID)
	}
}
