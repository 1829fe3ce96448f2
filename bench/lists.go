package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"
)

const (
	// listAim is how long a page may take, in milliseconds.
	listAim = 50.0
	// listRepeats is how often a page is asked for; what counts is the median.
	listRepeats = 5
)

// measureLists: how long a page of each list of the OpenAPI document takes in a large installation: with each filter alone and with
// each two of them; the first page, one in the middle, the last one, and the slowest place that was met on the way there.
func measureLists(ctx context.Context, b *bench, o options) ([]figure, error) {
	s, err := b.newSystem(ctx)
	if err != nil {
		return nil, err
	}
	figures, err := s.lists(ctx, o)
	return figures, errors.Join(err, s.end())
}

func (s *system) lists(ctx context.Context, o options) ([]figure, error) {
	began := time.Now()
	if err := s.fill(ctx, o.definitions, o.listed); err != nil {
		return nil, err
	}
	fmt.Fprintf(os.Stderr, "filled in %s\n", time.Since(began).Round(time.Second))
	api, err := s.startAPI(ctx)
	if err != nil {
		return nil, err
	}
	lists, err := readLists(ctx, api.api)
	if err != nil {
		return nil, err
	}
	teams, err := s.listsOfTeams(ctx, lists)
	if err != nil {
		return nil, err
	}
	var figures []figure
	for _, l := range append(lists, teams...) {
		some, err := l.measure(ctx)
		if err != nil {
			return figures, fmt.Errorf("%s: %w", l.id, err)
		}
		figures = append(figures, some...)
	}
	return figures, nil
}

// listsOfTeams returns the lists of the whole installation as callers see them who are limited to definitions with a label: one that a
// hundredth of them have, and one that most have.
func (s *system) listsOfTeams(ctx context.Context, lists []list) ([]list, error) {
	api, err := s.startAPI(ctx, askForTokens...)
	if err != nil {
		return nil, err
	}
	var out []list
	for _, text := range []string{teamLabel, commonLabel} {
		key, value, _ := strings.Cut(text, "=")
		token, err := s.token(ctx, map[string]string{key: value})
		if err != nil {
			return nil, err
		}
		for _, l := range lists {
			if !slices.Contains([]string{"list-definitions", "list-runs", "list-audit"}, l.id) {
				continue // of one definition, or not for teams
			}
			address, err := url.Parse(l.address)
			if err != nil {
				return nil, err
			}
			l.id, l.address, l.token = l.id+" of "+text, api.api+address.Path, token
			out = append(out, l)
		}
	}
	return out, nil
}

// list is an operation of the OpenAPI document that answers in pages.
type list struct {
	id, address string
	token       string // of who asks; "" for nobody in particular
	filters     []filter
}

// filter is a parameter with the values that are tried, the most common one first and the rarest last.
type filter struct {
	name   string
	values []string
}

// filterValues are the values of filters that the document does not spell out.
var filterValues = map[string][]string{
	"label":           {commonLabel, teamLabel, idleLabel, seldomLabel},
	"definition":      {"bench-1", "bench-255"},
	"definition_id":   {busyDefinition, seldomDefinition},
	"definition_name": {"bench-1", "bench-255"},
	"name":            {"bench-1"},
	"event_type":      {"bench.type7"},
	"event_id":        {busyEvent, seldomEvent},
	"rerun_of":        {someRun},
	"backfill_id":     {busyBackfill, "00000002-0000-7000-8000-000000000007"},
	"replay_id":       {busyReplay, "00000003-0000-7000-8000-000000000007"},
	"actor":           {"token-1", "seldom"},
	"actor_id":        {"token:" + "00000005-0000-7000-8000-000000000001"},
	"action":          {"update", "delete"},
	"target_kind":     {"definition", "run"},
	"target_id":       {busyDefinition, seldomDefinition},
	"since":           timesFrom(0.5, 0.999),
	"from":            timesFrom(0.5, 0.999),
	"until":           timesFrom(0.5, 0.0001),
	"to":              timesFrom(0.5, 0.0001),
}

// timesFrom returns the times by which these parts of the runs had been accepted.
func timesFrom(parts ...float64) []string {
	var out []string
	for _, p := range parts {
		out = append(out, filledFrom.Add(time.Duration(p*float64(filledFor))).Format(time.RFC3339))
	}
	return out
}

// pathValues are what stands in the path for its parameters.
var pathValues = map[string]string{
	"/activity-definitions/{id}": busyDefinition, "/runs/{id}": someRun, "{name}": "each",
}

// readLists reads from the document which lists there are, and how they can be filtered.
func readLists(ctx context.Context, api string) ([]list, error) {
	type schema struct {
		Type   any    `json:"type"`
		Format string `json:"format"`
		Enum   []string
		Items  *struct{ Enum []string }
	}
	var document struct {
		Paths map[string]struct {
			Get *struct {
				OperationID string `json:"operationId"`
				Parameters  []struct {
					Name, In string
					Schema   schema
				}
			}
		}
	}
	res, err := get(ctx, api+"/openapi.json", "")
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(res.body, &document); err != nil {
		return nil, err
	}
	var lists []list
	for _, path := range slices.Sorted(maps.Keys(document.Paths)) {
		op := document.Paths[path].Get
		if op == nil {
			continue
		}
		l, paged := list{id: op.OperationID, address: path}, false
		for before, value := range pathValues {
			l.address = strings.Replace(l.address, before, before[:strings.Index(before, "{")]+value, 1)
		}
		for _, p := range op.Parameters {
			values := filterValues[p.Name]
			switch {
			case p.In != "query" || p.Name == "limit":
				continue
			case p.Name == "cursor":
				paged = true
				continue
			case p.Schema.Items != nil && len(p.Schema.Items.Enum) > 0:
				values = p.Schema.Items.Enum
			case len(p.Schema.Enum) > 0:
				values = p.Schema.Enum
			case p.Schema.Type == "boolean":
				values = []string{"true", "false"}
			}
			l.filters = append(l.filters, filter{name: p.Name, values: values})
		}
		if !paged {
			continue
		}
		for _, f := range l.filters {
			if len(f.values) == 0 {
				return nil, fmt.Errorf("%s can be filtered by %s, for which filterValues has no value", l.id, f.name)
			}
		}
		if strings.Contains(l.address, "{") {
			return nil, fmt.Errorf("%s has a parameter in its path for which pathValues has no value", path)
		}
		l.address = api + l.address
		lists = append(lists, l)
	}
	return lists, nil
}

// queries are the ways to filter the list that are tried: not at all, by each value alone, and by each two filters, with the first and
// the last value of each, of labels with all. A label goes with another label, too.
func (l list) queries() []url.Values {
	out := []url.Values{{}}
	for i, f := range l.filters {
		for _, v := range f.values {
			out = append(out, url.Values{f.name: {v}})
		}
		for _, g := range l.filters[i+1:] {
			for _, v := range f.paired() {
				for _, w := range g.paired() {
					out = append(out, url.Values{f.name: {v}, g.name: {w}})
				}
			}
		}
		if f.name == "label" {
			out = append(out, url.Values{f.name: {commonLabel, teamLabel}}, url.Values{f.name: {commonLabel, idleLabel}})
		}
	}
	// Two times that swap their ends are an error, and no list.
	return slices.DeleteFunc(out, func(q url.Values) bool {
		return q.Get("since") > q.Get("until") && q.Has("until") || q.Get("from") > q.Get("to") && q.Has("to")
	})
}

// paired are the values that are tried together with those of another filter.
func (f filter) paired() []string {
	if len(f.values) < 2 || f.name == "label" {
		return f.values
	}
	return []string{f.values[0], f.values[len(f.values)-1]}
}

// places are where a page is timed, in the order of the figures.
var places = []string{"first page", "middle page", "last page", "slowest place"}

// measure times the pages of the list for each of its queries, and keeps the slowest of each place.
func (l list) measure(ctx context.Context) ([]figure, error) {
	slowest := make([]float64, len(places))
	queries := l.queries()
	for _, q := range queries {
		took, err := l.time(ctx, q)
		if err != nil {
			return nil, fmt.Errorf("?%s: %w", q.Encode(), err)
		}
		for i, ms := range took {
			slowest[i] = max(slowest[i], ms)
			if ms > listAim {
				fmt.Fprintf(os.Stderr, "over %.0f ms: %s, %s: %.1f ms\n", listAim, l.id, places[i]+" of ?"+q.Encode(), ms)
			}
		}
	}
	var figures []figure
	for i, place := range places {
		aim := ""
		if place != "middle page" {
			aim = fmt.Sprintf("%.0f or less", listAim)
		}
		figures = append(figures, figure{fmt.Sprintf("%s, %s, %d ways to filter", l.id, place, len(queries)), slowest[i], "ms, slowest", aim})
	}
	return figures, nil
}

// time returns the milliseconds that a page takes at each place.
func (l list) time(ctx context.Context, q url.Values) ([]float64, error) {
	first, err := l.median(ctx, q, "")
	if err != nil {
		return nil, err
	}
	took := []float64{first, first, first, first}
	q = maps.Clone(q)
	q.Set("limit", "1")
	page, err := get(ctx, l.address+"?"+q.Encode(), l.token)
	q.Del("limit")
	if err != nil || page.next == "" {
		return took, err
	}
	// A page from some number on is the last one when it names no next one. What the numbers are is not known here, but the last page
	// is found by halving; each look is a page of its own somewhere in the list.
	last := func(seq int64) (bool, error) {
		cursor, err := moveCursor(page.next, seq)
		if err != nil {
			return false, err
		}
		q.Set("cursor", cursor)
		page, err := get(ctx, l.address+"?"+q.Encode(), l.token)
		q.Del("cursor")
		if err != nil {
			return false, err
		}
		if page.ms > took[3] {
			// Once more, and again, for it may have been a chance.
			ms, err := l.median(ctx, q, cursor)
			if err != nil {
				return false, err
			}
			took[3] = max(took[3], ms)
		}
		return page.next == "", nil
	}
	const most = int64(1) << 24
	newestFirst, err := last(1)
	if err != nil {
		return nil, err
	}
	low, high := int64(1), most // at low the answer is newestFirst, at high the other
	if at, err := last(most); err != nil || at == newestFirst {
		return took, err // all on one page
	}
	for high-low > 1 {
		middle := low + (high-low)/2
		at, err := last(middle)
		if err != nil {
			return nil, err
		}
		if at == newestFirst {
			low = middle
		} else {
			high = middle
		}
	}
	beginning, err := cursorSeq(page.next)
	if err != nil {
		return nil, err
	}
	end := low
	if !newestFirst {
		end = high
	}
	for i, seq := range map[int]int64{1: (beginning + end) / 2, 2: end} {
		cursor, err := moveCursor(page.next, max(seq, 1))
		if err != nil {
			return nil, err
		}
		if took[i], err = l.median(ctx, q, cursor); err != nil {
			return nil, err
		}
	}
	took[3] = max(took[0], took[1], took[2], took[3])
	return took, nil
}

// median asks for one page several times. A page that is far beyond what is wanted is not asked for that often.
func (l list) median(ctx context.Context, q url.Values, cursor string) (float64, error) {
	q = maps.Clone(q)
	if cursor != "" {
		q.Set("cursor", cursor)
	}
	var took []float64
	for i := range listRepeats + 1 {
		page, err := get(ctx, l.address+"?"+q.Encode(), l.token)
		if err != nil {
			return 0, err
		}
		if i == 0 {
			continue // what was not asked for lately is still on the disk
		}
		if took = append(took, page.ms); page.ms > 20*listAim {
			break
		}
	}
	return median(took), nil
}

// answer is a page, or another answer of the API.
type answer struct {
	body []byte
	next string // the cursor of the next page, if there is one
	ms   float64
}

// get asks for something, with a token if there is one, and reads all of it.
func get(ctx context.Context, address, token string) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return answer{}, err
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	began := time.Now()
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	a := answer{body: body, ms: float64(time.Since(began).Microseconds()) / 1000}
	if err != nil {
		return a, err
	}
	if res.StatusCode != http.StatusOK {
		return a, fmt.Errorf("%s answered %s: %s", address, res.Status, body)
	}
	var page struct {
		NextCursor *string `json:"next_cursor"`
	}
	if err := json.Unmarshal(body, &page); err != nil {
		return a, err
	}
	if page.NextCursor != nil {
		a.next = *page.NextCursor
	}
	return a, nil
}

// A cursor is the list that it belongs to, and a number. Clients are not to look into it; this is no client.

func cursorSeq(cursor string) (seq int64, err error) {
	data, err := base64.RawURLEncoding.DecodeString(cursor)
	if err != nil {
		return 0, err
	}
	_, err = fmt.Sscan(string(data[strings.LastIndexByte(string(data), '.')+1:]), &seq)
	return seq, err
}

// moveCursor makes a cursor of the same list at another number.
func moveCursor(cursor string, seq int64) (string, error) {
	data, err := base64.RawURLEncoding.DecodeString(cursor)
	if err != nil {
		return "", err
	}
	at := strings.LastIndexByte(string(data), '.')
	if at < 0 {
		return "", errors.New("cursors are not what they were")
	}
	return base64.RawURLEncoding.EncodeToString(fmt.Appendf(data[:at+1], "%d", seq)), nil
}
