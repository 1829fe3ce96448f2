package definition

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// show writes differences one a line.
func show(list []Difference) string {
	var out []string
	for _, d := range list {
		line := string(d.Op) + " " + d.Path
		if d.Before != nil {
			line += " " + string(d.Before)
		}
		if d.After != nil {
			line += " → " + string(d.After)
		}
		out = append(out, line)
	}
	return strings.Join(out, "\n")
}

func TestDiff(t *testing.T) {
	t.Parallel()
	const base = `{"name": "order", "trigger_config": {"trigger_type": "event", "event_type": "order.paid", "filters": {"tier": "pro", "n": 1.0}},
		"labels": {"team": "shop"}, "tasks": [
			{"name": "stock", "type": "http", "with": {"url": "https://example.com/stock", "body": {"a": [1, 2, 3]}}},
			{"name": "ship", "type": "log", "needs": ["stock"], "with": {"message": "ship"}},
			{"name": "tell", "type": "log", "with": {"message": "tell"}}],
		"notify": [{"on": ["failed"], "type": "publish", "with": {"subject": "ops"}}]}`
	for name, tt := range map[string]struct{ change, want string }{
		"nothing":                {`{}`, ``},
		"the order of members":   {`{"trigger_config": {"event_type": "order.paid", "trigger_type": "event", "filters": {"n": 1.0, "tier": "pro"}}}`, ``},
		"a field":                {`{"enabled": false}`, `changed enabled true → false`},
		"two fields":             {`{"pause_reason": "why", "enabled": false}`, "changed enabled true → false\nadded pause_reason → \"why\""},
		"an object that is new":  {`{"concurrency": {"limit": 2}}`, `added concurrency → {"limit":2}`},
		"a label":                {`{"labels": {"team": "ops", "a.b/c": "d"}}`, "added labels.a.b/c → \"d\"\nchanged labels.team \"shop\" → \"ops\""},
		"no labels":              {`{"labels": null}`, `removed labels {"team":"shop"}`},
		"a number's own writing": {`{"trigger_config": {"trigger_type": "event", "event_type": "order.paid", "filters": {"tier": "pro", "n": 1}}}`, `changed trigger_config.filters.n 1.0 → 1`},
		"another type of value":  {`{"trigger_config": {"trigger_type": "event", "event_type": "order.paid", "filters": {"tier": {"x": "pro"}, "n": 1.0}}}`, `changed trigger_config.filters.tier "pro" → {"x":"pro"}`},
		"a task in between": {`{"tasks": [
			{"name": "stock", "type": "http", "with": {"url": "https://example.com/stock", "body": {"a": [1, 2, 3]}}},
			{"name": "pack", "type": "log", "with": {"message": "pack"}},
			{"name": "ship", "type": "log", "needs": ["stock"], "with": {"message": "ship"}},
			{"name": "tell", "type": "log", "with": {"message": "tell"}}]}`,
			`added tasks[pack] → {"name":"pack","type":"log","needs":[],"with":{"message":"pack"}}`},
		"moved, removed and changed": {`{"tasks": [
			{"name": "tell", "type": "log", "with": {"message": "told"}},
			{"name": "ship", "type": "log", "with": {"message": "ship"}}]}`,
			"changed tasks[tell].with.message \"tell\" → \"told\"\nmoved tasks[ship] 0 → 1\nremoved tasks[ship].needs[0] \"stock\"\n" +
				`removed tasks[stock] {"name":"stock","type":"http","needs":[],"with":{"url":"https://example.com/stock","body":{"a":[1,2,3]}}}`},
		"deep within a task": {`{"tasks": [
			{"name": "stock", "type": "http", "with": {"url": "https://example.com/stock", "body": {"a": [1, 5, 3]}}},
			{"name": "ship", "type": "log", "needs": ["stock"], "with": {"message": "ship"}},
			{"name": "tell", "type": "log", "with": {"message": "tell"}}]}`, `changed tasks[stock].with.body.a[1] 2 → 5`},
		"a list of another length": {`{"tasks": [
			{"name": "stock", "type": "http", "with": {"url": "https://example.com/stock", "body": {"a": [4, 5, 6, 3]}}},
			{"name": "ship", "type": "log", "needs": ["stock"], "with": {"message": "ship"}},
			{"name": "tell", "type": "log", "with": {"message": "tell"}}]}`, `changed tasks[stock].with.body.a [1,2,3] → [4,5,6,3]`},
		"one more notification": {`{"notify": [{"on": ["late"], "type": "publish", "with": {"subject": "ops"}},
			{"on": ["failed"], "type": "publish", "with": {"subject": "ops"}}]}`,
			`added notify[0] → {"on":["late"],"type":"publish","with":{"subject":"ops"}}`},
		"within a notification": {`{"notify": [{"on": ["failed"], "type": "publish", "with": {"subject": "dev"}}]}`,
			`changed notify[0].with.subject "ops" → "dev"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			before, err := ParseDocument([]byte(base))
			if err != nil {
				t.Fatal(err)
			}
			after, err := before.Replace([]byte(tt.change))
			if err != nil {
				t.Fatal(err)
			}
			got, err := Diff(&before, &after)
			if err != nil || show(got) != tt.want {
				t.Errorf("got\n%s\nwant\n%s\n%v", show(got), tt.want, err)
			}
		})
	}
}

func TestDiffWithNothing(t *testing.T) {
	t.Parallel()
	doc, err := ParseDocument([]byte(`{"name": "a", "trigger_config": {"trigger_type": "manual"}}`))
	if err != nil {
		t.Fatal(err)
	}
	got, err := Diff(nil, &doc)
	want := "added enabled → true\nadded name → \"a\"\nadded tasks → []\nadded trigger_config → {\"trigger_type\":\"manual\"}"
	if err != nil || show(got) != want {
		t.Errorf("got\n%s\n%v", show(got), err)
	}
}

// random makes documents as JSON trees. They need not be legal: differences are told of whatever was stored.
type random struct{ *rand.Rand }

func (r random) word() string { return string(rune('a' + r.IntN(5))) }

func (r random) value(depth int) any {
	switch n := r.IntN(7); {
	case n == 0 && depth > 0:
		return r.list(depth)
	case n == 1 && depth > 0:
		return r.object(depth)
	case n == 2:
		return r.IntN(2) == 0
	case n == 3:
		return nil
	case n == 4:
		return r.word()
	}
	return json.Number(strconv.Itoa(r.IntN(10)))
}

func (r random) list(depth int) []any {
	out := make([]any, r.IntN(4))
	for i := range out {
		out[i] = r.value(depth - 1)
	}
	return out
}

func (r random) object(depth int) map[string]any {
	out := map[string]any{}
	for range r.IntN(4) {
		out[r.word()] = r.value(depth - 1)
	}
	return out
}

func (r random) tasks() []any {
	out := []any{}
	for _, i := range r.Perm(6)[:r.IntN(6)] {
		out = append(out, map[string]any{"name": "t" + strconv.Itoa(i), "type": r.word(), "needs": []any{r.word()}, "with": r.object(3)})
	}
	return out
}

func (r random) document() map[string]any {
	doc := map[string]any{"name": r.word(), "enabled": r.IntN(2) == 0, "tasks": r.tasks(),
		"trigger_config": map[string]any{"trigger_type": "event", "event_type": r.word(), "filters": map[string]any{r.word(): r.value(2)}}}
	for field, value := range map[string]any{"description": r.word(), "labels": map[string]any{r.word(): r.word()}, "on_failure": r.tasks(),
		"notify": []any{map[string]any{"on": []any{r.word()}, "type": "http", "with": r.object(3)}}, "concurrency": map[string]any{"limit": json.Number("2")},
		"timeout": "1h0m0s"} {
		if r.IntN(2) == 0 {
			doc[field] = value
		}
	}
	return doc
}

// stored reads a tree as a stored document, and returns it with the tree that it then is.
func stored(t *testing.T, tree any) (*Document, map[string]any) {
	t.Helper()
	data, err := json.Marshal(tree)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := DecodeStored(data)
	if err != nil {
		t.Fatalf("%v: %s", err, data)
	}
	members, err := membersOf(&doc)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]any{}
	for name, value := range members {
		out[name] = treeOf(t, []byte(value))
	}
	return &doc, out
}

func treeOf(t *testing.T, data []byte) any {
	t.Helper()
	dec := json.NewDecoder(strings.NewReader(string(data)))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		t.Fatalf("%v: %s", err, data)
	}
	return v
}

// TestDiffTellsAll applies what Diff tells of two random documents to the first one: it becomes the second, but for the places of
// tasks, and the tasks that were not moved have one order in both.
func TestDiffTellsAll(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	r := random{rand.New(rand.NewPCG(seed, 0))}
	for range 1000 {
		a, treeA := stored(t, r.document())
		b, treeB := stored(t, r.document())
		if none, err := Diff(a, a); err != nil || len(none) > 0 {
			t.Fatalf("seed %d: a document differs from itself: %s %v", seed, show(none), err)
		}
		found, err := Diff(a, b)
		if err != nil {
			t.Fatal(err)
		}
		checkFields(t, treeA, treeB, found)
		was := fmt.Sprint(treeA)
		got := applied(t, treeA, found)
		for _, list := range []string{"tasks", "on_failure"} {
			checkOrder(t, treeB[list], got[list], list, found)
			byName(got[list])
			byName(treeB[list])
		}
		if !reflect.DeepEqual(got, treeB) {
			t.Fatalf("seed %d: %s\nwith\n%s\nbecomes %v\nwant    %v", seed, was, show(found), got, treeB)
		}
	}
}

// checkFields holds the fields that are told to have changed against the differences.
func checkFields(t *testing.T, treeA, treeB map[string]any, found []Difference) {
	t.Helper()
	a, errA := json.Marshal(treeA)
	b, errB := json.Marshal(treeB)
	got, err := ChangedFields(a, b)
	if err := errors.Join(errA, errB, err); err != nil {
		t.Fatal(err)
	}
	want := []string{}
	for _, d := range found {
		want = append(want, steps(d.Path)[0])
	}
	slices.Sort(want)
	if !slices.Equal(got, slices.Compact(want)) {
		t.Fatalf("changed fields %q, want %q", got, want)
	}
}

// applied does to a tree what the differences say. Removals are done from the last on, so that places stay.
func applied(t *testing.T, tree map[string]any, list []Difference) map[string]any {
	t.Helper()
	ordered := slices.Clone(list)
	slices.SortStableFunc(ordered, func(a, b Difference) int {
		rank := map[DiffOp]int{DiffRemoved: 1}
		return rank[a.Op] - rank[b.Op]
	})
	removals := slices.IndexFunc(ordered, func(d Difference) bool { return d.Op == DiffRemoved })
	if removals >= 0 {
		slices.Reverse(ordered[removals:])
	}
	var out any = tree
	for _, d := range ordered {
		if d.Op != DiffMoved {
			out = put(t, out, steps(d.Path), d)
		}
	}
	return out.(map[string]any)
}

// steps splits tasks[a].with.url into tasks, [a], with and url.
func steps(path string) []string {
	return strings.FieldsFunc(strings.ReplaceAll(path, "[", ".["), func(r rune) bool { return r == '.' })
}

func put(t *testing.T, at any, path []string, d Difference) any {
	t.Helper()
	if len(path) == 0 {
		return treeOf(t, d.After)
	}
	step := path[0]
	switch v := at.(type) {
	case map[string]any:
		if len(path) == 1 && d.Op == DiffRemoved {
			delete(v, step)
		} else {
			v[step] = put(t, v[step], path[1:], d)
		}
		return v
	case []any:
		i, err := strconv.Atoi(strings.Trim(step, "[]"))
		if err != nil {
			if i = taskAt(v, strings.Trim(step, "[]")); i < 0 {
				i = len(v)
			}
		}
		switch {
		case len(path) > 1:
			v[i] = put(t, v[i], path[1:], d)
		case d.Op == DiffRemoved:
			return slices.Delete(v, i, i+1)
		case d.Op == DiffAdded:
			return slices.Insert(v, i, treeOf(t, d.After))
		default:
			v[i] = treeOf(t, d.After)
		}
		return v
	}
	t.Fatalf("nothing at %q for %s", path, d.Path)
	return nil
}

func taskAt(list []any, name string) int {
	return slices.IndexFunc(list, func(v any) bool { return v.(map[string]any)["name"] == name })
}

func byName(list any) {
	if tasks, ok := list.([]any); ok {
		slices.SortFunc(tasks, func(a, b any) int {
			return strings.Compare(fmt.Sprint(a.(map[string]any)["name"]), fmt.Sprint(b.(map[string]any)["name"]))
		})
	}
}

func checkOrder(t *testing.T, want, got any, path string, found []Difference) {
	t.Helper()
	staying := func(list any) (out []any) {
		tasks, _ := list.([]any)
		for _, task := range tasks {
			name := task.(map[string]any)["name"]
			if !slices.ContainsFunc(found, func(d Difference) bool {
				return d.Path == fmt.Sprintf("%s[%s]", path, name) && (d.Op == DiffMoved || d.Op == DiffAdded)
			}) {
				out = append(out, name)
			}
		}
		return out
	}
	if w, g := staying(want), staying(got); !slices.Equal(w, g) {
		t.Fatalf("tasks that were not moved are %v, and were %v\n%s", w, g, show(found))
	}
}

// TestDiffOfOneChange changes one place of a random document: one difference names it.
func TestDiffOfOneChange(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	r := random{rand.New(rand.NewPCG(seed, 1))}
	for range 1000 {
		doc := r.document()
		a, tree := stored(t, doc)
		path, op := r.change(tree, "", tree)
		if path == "" {
			continue
		}
		b, _ := stored(t, tree)
		got, err := Diff(a, b)
		if err != nil || len(got) != 1 || got[0].Path != path || got[0].Op != op {
			t.Fatalf("seed %d: the change is %s at %s, and told is\n%s\n%v", seed, op, path, show(got), err)
		}
	}
}

// fixed are places that a tree cannot lose, or that a document may not have other values at.
var fixed = []string{"enabled", "tasks", "on_failure", "notify", "trigger_config", "trigger_config.trigger_type", "concurrency", "labels", "timeout"}

// change changes one place below at, and returns its path and how it was changed; "" when it found none.
func (r random) change(at any, path string, root map[string]any) (string, DiffOp) {
	switch v := at.(type) {
	case map[string]any:
		if free := strings.HasSuffix(path, ".with") || strings.HasSuffix(path, ".filters"); free && r.IntN(3) == 0 {
			name := "new"
			v[name] = r.value(2)
			return joinPath(path, name), DiffAdded
		}
		names := []string{}
		for name := range v {
			names = append(names, name)
		}
		if len(names) == 0 {
			return "", ""
		}
		slices.Sort(names)
		name := names[r.IntN(len(names))]
		below := joinPath(path, name)
		switch v[name].(type) {
		case map[string]any, []any:
			return r.change(v[name], below, root)
		}
		switch {
		case slices.Contains(fixed, below) || below == "concurrency.limit" || strings.HasSuffix(below, "].name"):
			return "", ""
		case strings.Contains(below, ".with.") && len(v) > 1 && r.IntN(2) == 0: // one without members is as good as none
			delete(v, name)
			return below, DiffRemoved
		}
		v[name] = "other"
		return below, DiffChanged
	case []any:
		switch {
		case (path == "tasks" || path == "on_failure") && len(v) > 0:
			i := r.IntN(len(v))
			at := path + "[" + v[i].(map[string]any)["name"].(string) + "]"
			if j := r.IntN(len(v)); j > i+1 && r.IntN(2) == 0 { // next to each other, either of the two may be the one that moved
				task := v[i]
				root[path] = slices.Insert(slices.Delete(v, i, i+1), j, task)
				return at, DiffMoved
			}
			if len(v) > 1 && r.IntN(4) == 0 {
				root[path] = slices.Delete(v, i, i+1)
				return at, DiffRemoved
			}
			return r.change(v[i], at, root)
		case len(v) > 0:
			i := r.IntN(len(v))
			below := path + "[" + strconv.Itoa(i) + "]"
			switch v[i].(type) {
			case map[string]any, []any:
				return r.change(v[i], below, root)
			}
			v[i] = "other"
			return below, DiffChanged
		}
	}
	return "", ""
}

func TestRollback(t *testing.T) {
	t.Parallel()
	parse := func(text string) Document {
		doc, err := ParseDocument([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return doc
	}
	old := parse(`{"name": "old", "enabled": true, "trigger_config": {"trigger_type": "manual"}}`)
	paused := parse(`{"name": "new", "enabled": false, "pause_reason": "why", "trigger_config": {"trigger_type": "manual"}}`)
	back, err := paused.Rollback(old)
	if err != nil || back.Name != "old" || back.Enabled || back.PauseReason != "why" {
		t.Errorf("back to what was enabled: %+v %v", back, err)
	}
	if back, err = old.Rollback(paused); err != nil || back.Name != "new" || !back.Enabled || back.PauseReason != "" {
		t.Errorf("back to what was paused: %+v %v", back, err)
	}
	broken := old
	broken.Timeout = 1
	if _, err := paused.Rollback(broken); err == nil || !strings.Contains(err.Error(), "timeout: must be at least 1s") {
		t.Errorf("back to what is not legal any more: %v", err)
	}
	if back, err := broken.Rollback(broken); err != nil || !back.Equal(broken) {
		t.Errorf("what is in force is refused: %v", err)
	}
}
