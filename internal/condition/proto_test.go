package condition

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestProto(t *testing.T) {
	ev := NewEvent([]byte(`{"event_id":"1","type":"a","payload":{"a":1,"s":"hello","l":[{"n":"x","m":[1,2]}],"ip":"10.0.0.1"}}`))
	for _, s := range []string{`event.payload.a == 1`, `event.payload.a > 1.5 || event.payload.s == 'hello'`, `event.payload.l.exists(x, x.n == "x" && x.m.exists(y, y == 2))`,
		`event.payload.l.exists(x, x.n.contains("x"))`,
		`event.payload.l.exists(x, event.payload.l.exists(y, x == y))`,
		`event.payload.l.exists(x, x.n in event.payload.m)`,
		`event.payload.l.exists(x, x.m.exists(y, y.z.exists(w, w == 1)))`,
		`event.payload.s.matches("^h.*o$")`, `event.payload.s.startsWith("he")`, `event.payload.s.lowerAscii() == "hello"`, `has(event.payload.zz) && event.payload.zz > 1`,
		`event.payload.?zz.orValue(7) == 7`, `event.payload.zz > 1`, `event.payload.zz.y == 1`, `has(event.payload.zz.y)`, `event.payload.a`, `event.payload`, `tier == "pro"`, `event.payload.a = 1`, `event.payload.a == 1 and true`, `event.payload.s > 1`, `"a" > 1`, `event.foo.bar == "x"`, `1`,
		`cidr("10.0.0.0/8").containsIP(event.payload.ip)`, `isIP(event.payload.ip) && cidr("10.0.0.0/8").containsIP(ip(event.payload.ip))`, `event.payload["a"] == 1`, "event.payload.`a` == 1", `event.payload.s.replace("l","LL") == "heLLLLo"`, `event.payload.s.split("").size() == 5`, `timestamp("2026-01-01T00:00:00Z") < timestamp("2027-01-01T00:00:00Z")`, `event.payload.s in ["hello","x"]`, `event.payload.a in [1,2]`, `!(event.payload.s in ["x"])`, `event.payload.l.map(x, x.n).exists(n, n == "x")`, `size(event.payload.l) > 3`, `event.payload.l == [1]`, strings.Repeat("(", 200) + "true" + strings.Repeat(")", 200), strings.Repeat("!", 90) + "true",
		`[[[1,2].map(x, x+x)].map(x,x+x)].size() == 1`, `cidr("10.0.0.0/99").containsIP("10.0.0.1")`, `event.payload.s.matches(event.payload.s)`, `event.payload.s.matches("(")`, `'x' == "\xff"`, `event.payload.s == 'hello`, `sets.intersects(event.payload.l, [1,2])`, `event.payload.s.format([1]) == "a"`, `event.payload.a == 1 ? true : 1`,
	} {
		t0 := time.Now()
		c, err := Compile(s)
		d := time.Since(t0)
		if err != nil {
			fmt.Println(s, "\n   REFUSED", d, err)
			continue
		}
		env, _ := environment()
		p, _ := env.Compile(s)
		est, _ := env.EstimateCost(p, bounds{})
		ok, err := c.Eval(ev)
		t0 = time.Now()
		for range 1000 {
			c.Eval(ev)
		}
		fmt.Println(s, "\n   ", d, est, ok, err, time.Since(t0)/1000)
	}
}
