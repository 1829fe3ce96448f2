package api

import "testing"

func TestCursor(t *testing.T) {
	t.Parallel()
	place := cursor{list: "runs", filters: "status=failed", seq: 1 << 62}
	var f faults
	if got := (cursor{list: "runs", filters: "status=failed"}).parse(place.String(), &f); got != place.seq || f.err() != nil {
		t.Errorf("read back %d %v", got, f.err())
	}
	for _, other := range []cursor{{list: "definitions", filters: "status=failed"}, {list: "runs"}} {
		var f faults
		if got := other.parse(place.String(), &f); got != 0 || f.err() == nil {
			t.Errorf("%+v took the cursor of another list: %d", other, got)
		}
	}
}

// FuzzCursor checks that a text is a cursor only when it is exactly one that was given out.
func FuzzCursor(f *testing.F) {
	f.Add(cursor{list: "runs", seq: 7}.String())
	f.Add("")
	f.Add("MS4wMDAwMDAwMDAwMDAwMDAwLjc")
	f.Fuzz(func(t *testing.T, text string) {
		place := cursor{list: "runs"}
		var faults faults
		place.seq = place.parse(text, &faults)
		switch {
		case faults.err() != nil && place.seq != 0:
			t.Errorf("%q is refused and gives %d", text, place.seq)
		case faults.err() == nil && text != "" && place.String() != text:
			t.Errorf("%q is taken, but is not the cursor of %d", text, place.seq)
		}
	})
}

// FuzzInput checks that the check of an input never panics, and agrees with itself about what follows a value.
func FuzzInput(f *testing.F) {
	for _, seed := range []string{`{"a":1}`, `{"a":1,"a":2}`, `1 2`, "\"\xff\"", `[`, `"\ud800"`, ``} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if checkJSON(data) == nil && checkJSON(append([]byte("0 "), data...)) == nil {
			t.Errorf("two values are taken: 0 %q", data)
		}
	})
}
