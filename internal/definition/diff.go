package definition

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// DiffOp is how something differs.
type DiffOp string

// The ways to differ.
const (
	DiffAdded   DiffOp = "added"
	DiffRemoved DiffOp = "removed"
	DiffChanged DiffOp = "changed"
	// DiffMoved: a task has another place among those that both lists have.
	DiffMoved DiffOp = "moved"
)

// DiffOps lists them.
var DiffOps = []DiffOp{DiffAdded, DiffRemoved, DiffChanged, DiffMoved}

// Difference is one difference between two documents.
type Difference struct {
	// Path is where, as in the paths of FieldError, but with the names of tasks for their places: tasks[welcome].with.url. A place in
	// another list is a number, for what was removed the one that it had.
	Path string
	Op   DiffOp
	// Before and After are the values, nil where there is none; of a move the places, from 0, among the tasks that both lists have.
	Before, After json.RawMessage
}

// Diff tells in what two documents differ, in the order of their fields' names and, for tasks, of the newer list. Tasks are compared
// by name, so that a task in between leaves the others as they are. nil stands for a document without any field. The order of the
// members of an object is no difference.
func Diff(before, after *Document) ([]Difference, error) {
	a, err := membersOf(before)
	if err != nil {
		return nil, err
	}
	b, err := membersOf(after)
	if err != nil {
		return nil, err
	}
	var d differ
	d.objects("", a, b)
	return d.found, nil
}

// ChangedFields returns the top-level fields in which two stored documents differ, sorted.
func ChangedFields(before, after []byte) ([]string, error) {
	var a, b object
	if err := errors.Join(jsonv2.Unmarshal(before, &a), jsonv2.Unmarshal(after, &b)); err != nil {
		return nil, fmt.Errorf("compare stored definitions: %w", err)
	}
	changed := []string{}
	for _, name := range a.and(b) {
		if before, had := a[name]; !had || !same(before, b[name]) {
			changed = append(changed, name)
		}
	}
	return changed, nil
}

// and returns the names of the members of both objects, sorted.
func (o object) and(other object) []string {
	names := slices.Collect(maps.Keys(o))
	for name := range other {
		if _, both := o[name]; !both {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func membersOf(d *Document) (object, error) {
	if d == nil {
		return object{}, nil
	}
	data, err := jsonv2.Marshal(*d)
	if err != nil {
		return nil, fmt.Errorf("encode definition %s: %w", d.Name, err)
	}
	var o object
	if err := jsonv2.Unmarshal(data, &o); err != nil {
		return nil, fmt.Errorf("read back definition %s: %w", d.Name, err)
	}
	return o, nil
}

type differ struct {
	found []Difference
}

func (d *differ) add(path string, op DiffOp, before, after jsontext.Value) {
	d.found = append(d.found, Difference{Path: path, Op: op, Before: json.RawMessage(before), After: json.RawMessage(after)})
}

func (d *differ) objects(path string, a, b object) {
	for _, name := range a.and(b) {
		before, had := a[name]
		after, has := b[name]
		switch at := joinPath(path, name); {
		case !had:
			d.add(at, DiffAdded, nil, after)
		case !has:
			d.add(at, DiffRemoved, before, nil)
		default:
			d.values(at, before, after)
		}
	}
}

func (d *differ) values(path string, before, after jsontext.Value) {
	if bytes.Equal(before, after) {
		return
	}
	switch {
	case before.Kind() == '{' && after.Kind() == '{':
		var a, b object
		if jsonv2.Unmarshal(before, &a) == nil && jsonv2.Unmarshal(after, &b) == nil {
			d.objects(path, a, b)
			return
		}
	case before.Kind() == '[' && after.Kind() == '[':
		var a, b []jsontext.Value
		if jsonv2.Unmarshal(before, &a) == nil && jsonv2.Unmarshal(after, &b) == nil {
			d.lists(path, a, b)
			return
		}
	}
	d.add(path, DiffChanged, before, after)
}

func (d *differ) lists(path string, a, b []jsontext.Value) {
	if path == "tasks" || path == "on_failure" {
		if namesA, namesB := taskNames(a), taskNames(b); namesA != nil && namesB != nil {
			d.tasks(path, a, b, namesA, namesB)
			return
		}
	}
	// What is the same at both ends is left out.
	first := 0
	for first < min(len(a), len(b)) && same(a[first], b[first]) {
		first++
	}
	endA, endB := len(a), len(b)
	for endA > first && endB > first && same(a[endA-1], b[endB-1]) {
		endA, endB = endA-1, endB-1
	}
	at := func(i int) string { return path + "[" + strconv.Itoa(i) + "]" }
	switch {
	case endA == first:
		for i := first; i < endB; i++ {
			d.add(at(i), DiffAdded, nil, b[i])
		}
	case endB == first:
		for i := first; i < endA; i++ {
			d.add(at(i), DiffRemoved, a[i], nil)
		}
	case endA == endB:
		for i := first; i < endA; i++ {
			d.values(at(i), a[i], b[i])
		}
	default:
		d.add(path, DiffChanged, list(a), list(b))
	}
}

// same reports whether two values do not differ.
func same(a, b jsontext.Value) bool {
	var d differ
	d.values("", a, b)
	return len(d.found) == 0
}

func list(values []jsontext.Value) jsontext.Value {
	return slices.Concat(jsontext.Value("["), bytes.Join(asBytes(values), []byte(",")), jsontext.Value("]"))
}

func asBytes(values []jsontext.Value) [][]byte {
	out := make([][]byte, len(values))
	for i, v := range values {
		out[i] = v
	}
	return out
}

// taskNames returns the names of the tasks of a list, nil when they do not tell them apart.
func taskNames(tasks []jsontext.Value) []string {
	names := make([]string, len(tasks))
	for i, t := range tasks {
		var named struct {
			Name string `json:"name"`
		}
		if jsonv2.Unmarshal(t, &named) != nil || named.Name == "" || slices.Contains(names[:i], named.Name) {
			return nil
		}
		names[i] = named.Name
	}
	return names
}

func (d *differ) tasks(path string, a, b []jsontext.Value, namesA, namesB []string) {
	var both row // in the order of b, with the places that they have among those of both lists
	common := slices.DeleteFunc(slices.Clone(namesA), func(name string) bool { return !slices.Contains(namesB, name) })
	for _, name := range namesB {
		if i := slices.Index(common, name); i >= 0 {
			both = append(both, i)
		}
	}
	stay := both.inOrder()
	for j, name := range namesB {
		at := path + "[" + name + "]"
		was := slices.Index(common, name)
		if was < 0 {
			d.add(at, DiffAdded, nil, b[j])
			continue
		}
		if !slices.Contains(stay, was) {
			d.add(at, DiffMoved, jsontext.Value(strconv.Itoa(was)), jsontext.Value(strconv.Itoa(slices.Index(both, was))))
		}
		d.values(at, a[slices.Index(namesA, name)], b[j])
	}
	for i, name := range namesA {
		if !slices.Contains(namesB, name) {
			d.add(path+"["+name+"]", DiffRemoved, a[i], nil)
		}
	}
}

// row is the old places of tasks, in their new order.
type row []int

// inOrder returns as many of them as are in their old order, and of several such rows one with most tasks that also have their old
// place: the others were moved.
func (r row) inOrder() row {
	endingAt := make([]row, len(r)) // the best row that ends with each of them
	scores := make([]int, len(r))
	best := -1
	for i, was := range r {
		for j := range i {
			if r[j] < was && scores[j] > scores[i] {
				scores[i], endingAt[i] = scores[j], endingAt[j]
			}
		}
		endingAt[i] = append(slices.Clone(endingAt[i]), was)
		if scores[i] += len(r) + 1; was == i {
			scores[i]++
		}
		if best < 0 || scores[i] > scores[best] {
			best = i
		}
	}
	if best < 0 {
		return nil
	}
	return endingAt[best]
}
