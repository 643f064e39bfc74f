package limits

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestCheckJSON(t *testing.T) {
	free := map[string]bool{"annotations": true}
	values := func(n int) string { return "[" + strings.TrimSuffix(strings.Repeat("0,", n-1), ",") + "]" }
	deep := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	for _, c := range []struct{ name, text, want string }{
		{"nothing", ``, ""},
		{"a number", `1`, ""},
		{"an object", `{"layers":[{"digest":"a"},{"digest":"b"}],"config":{"digest":"c"}}`, ""},
		{"the same key in siblings", `{"a":{"x":1},"b":{"x":1}}`, ""},
		{"strings that look like keys", `{"a":["a","a"],"b":"a"}`, ""},
		{"twice", `{"layers":1,"config":2,"layers":3}`, `"layers" twice`},
		{"twice in case", `{"layers":1,"Layers":3}`, `"Layers" twice`},
		{"twice escaped", `{"layers":1,"l\u0061yers":3}`, `"layers" twice`},
		{"twice by the Kelvin sign", "{\"kind\":1,\"\u212aind\":3}", `ind" twice`},
		{"twice below", `[{"a":{"b":1,"B":2}}]`, `"B" twice`},
		{"case where names are free", `{"annotations":{"a":"1","A":"2"}}`, ""},
		{"twice where names are free", `{"annotations":{"a":"1","a":"2"}}`, `"a" twice`},
		{"after a free one", `{"annotations":{"a":"1"},"x":{"b":1,"B":1}}`, `"B" twice`},
		{"as many values as may be", values(JSONValues), ""},
		{"one more", values(JSONValues + 1), "values"},
		{"as deep as may be", deep(JSONDepth), ""},
		{"deeper", deep(JSONDepth + 1), "deep"},
		{"no end", `{"a":"`, ""},
		{"too many ends", `]]]}}},,::`, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := CheckJSON([]byte(c.text), free)
			var of *JSONError
			if c.want == "" && err != nil || c.want != "" && (!errors.As(err, &of) || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("CheckJSON: %v, want %q", err, c.want)
			}
		})
	}
}

// FuzzCheckJSON: whatever the standard library decodes to one of two values, by the order of the
// fields, is refused.
func FuzzCheckJSON(f *testing.F) {
	for _, s := range []string{`{"a":1,"A":2}`, `{"a":{"b":[1,"x",null,true]}}`, `[`, `"\"`, `{"a":"\u0061"}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		err := CheckJSON(raw, nil)
		var v map[string]any
		if err != nil || json.Unmarshal(raw, &v) != nil {
			return
		}
		seen := make(map[string]bool)
		for k := range v {
			k = fmt.Sprint(strings.Map(foldRune, k))
			if seen[k] {
				t.Errorf("%q passes with two fields %q", raw, k)
			}
			seen[k] = true
		}
	})
}
