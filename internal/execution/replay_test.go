package execution

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
	"google.golang.org/protobuf/encoding/protojson"
)

const historiesDir = "testdata/histories"

var recordHistories = flag.Bool("record", false, "write the histories of the tests on real servers to "+historiesDir)

// namesOfMachines matches what a history says about the machine and the process that made it: the identity of workers
// and clients, and the sticky task queues, which are named after a host.
var namesOfMachines = []struct {
	pattern *regexp.Regexp
	stead   string
}{
	{regexp.MustCompile(`("(?:identity|stickyWorkerId|binaryChecksum)":\s*)"[^"]*"`), `${1}"recorded"`},
	{regexp.MustCompile(`"[^"\s]+:([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})",(\s*"kind":\s*"TASK_QUEUE_KIND_STICKY")`),
		`"sticky:${1}",${2}`},
	{regexp.MustCompile(`http://127\.0\.0\.1:\d+`), "http://127.0.0.1:80"},
}

// record writes a history to testdata when the tests run with -record.
func record(t *testing.T, name string, h *historypb.History) {
	t.Helper()
	if !*recordHistories {
		return
	}
	data, err := protojson.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	// protojson varies its white space on purpose; this makes it the same each time.
	var indented bytes.Buffer
	if err := json.Indent(&indented, data, "", " "); err != nil {
		t.Fatal(err)
	}
	data = append(indented.Bytes(), '\n')
	for _, n := range namesOfMachines {
		data = n.pattern.ReplaceAll(data, []byte(n.stead))
	}
	dir := filepath.Join(historiesDir, "graph")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name+".json"), data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// Each recorded history must replay with the workflow as it is now. One that does not would leave runs that are open during an upgrade
// stuck: change the workflow as docs/decisions/0020-changing-workflow-code.md says. Those in the folder itself are of runs whose tasks
// were done one after another, those in graph of runs that go by the tasks' needs. Add histories of new shapes; never rewrite one of
// a released version to make this test pass.
func TestReplay(t *testing.T) {
	t.Parallel()
	var files []string
	for _, shape := range []string{"*.json", "graph/*.json"} {
		found, err := filepath.Glob(filepath.Join(historiesDir, shape))
		if err != nil || len(found) < 10 {
			t.Fatalf("%d recorded histories in %s/%s (%v)", len(found), historiesDir, shape, err)
		}
		files = append(files, found...)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(strings.TrimPrefix(file, historiesDir+"/"), ".json"), func(t *testing.T) {
			t.Parallel()
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			h, err := client.HistoryFromJSON(bytes.NewReader(data), client.HistoryJSONOptions{})
			if err != nil {
				t.Fatal(err)
			}
			replay(t, h)
			for _, found := range regexp.MustCompile(`"identity":\s*"([^"]*)"`).FindAllSubmatch(data, -1) {
				if string(found[1]) != "recorded" {
					t.Fatalf("names a machine or process: %s", found[0])
				}
			}
		})
	}
}

// replay carries a workflow out again by its history.
func replay(t *testing.T, h *historypb.History) {
	t.Helper()
	replayer := worker.NewWorkflowReplayer()
	w := &Worker{workflows: &workflows{taskQueue: "tasks"}}
	w.registerWorkflow(replayer)
	started := h.Events[0].GetWorkflowExecutionStartedEventAttributes()
	err := replayer.ReplayWorkflowHistoryWithOptions(log.NewStructuredLogger(discard()), h, worker.ReplayWorkflowHistoryOptions{
		// The ids of child workflows are made of it.
		OriginalExecution: workflow.Execution{ID: started.GetWorkflowId(), RunID: started.GetOriginalExecutionRunId()},
	})
	if err != nil {
		t.Error(err)
	}
}
