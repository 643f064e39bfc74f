package limits

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
)

// document is what documents of these tests are decoded into.
type document struct {
	Kind        string            `json:"kind,omitempty"`
	Layers      []document        `json:"layers"`
	Config      *document         `json:"config"`
	Named       map[string]labels `json:"named"`
	Annotations map[string]string `json:"annotations"`
	Raw         json.RawMessage   `json:"raw"`
	Left        string            `json:"-"`
	Plain       int
	labels
}

type labels struct {
	Labels map[string]string `json:"labels"`
}

func TestCheckJSON(t *testing.T) {
	values := func(n int) string { return "[" + strings.TrimSuffix(strings.Repeat("0,", n-1), ",") + "]" }
	deep := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	for _, c := range []struct{ name, text, want string }{
		{"nothing", ``, ""},
		{"a number", `1`, ""},
		{"an object", `{"layers":[{"kind":"a"},{"kind":"b"}],"config":{"kind":"c"}}`, ""},
		{"the same key in siblings", `{"a":{"x":1},"b":{"x":1}}`, ""},
		{"strings that look like keys", `{"a":["a","a"],"b":"a"}`, ""},
		{"twice", `{"layers":1,"config":2,"layers":3}`, `"layers"`},
		{"twice, unknown", `{"x":1,"config":2,"x":3}`, `"x"`},
		{"twice in case", `{"layers":1,"Layers":3}`, `"Layers"`},
		{"twice in case, neither as it is known", `{"LAYERS":1,"Layers":3}`, `"Layers"`},
		{"unknown, in case", `{"x":1,"X":3}`, ""},
		{"twice escaped", `{"layers":1,"l\u0061yers":3}`, `"layers"`},
		{"twice by the Kelvin sign", "{\"kind\":1,\"\u212aind\":3}", `ind"`},
		{"twice below a pointer", `{"config":{"kind":1,"Kind":2}}`, `"Kind"`},
		{"twice below a list", `{"LAYERS":[{},{"kind":1,"Kind":2}]}`, `"Kind"`},
		{"twice below a map", `{"named":{"a":{},"A":{"labels":{},"Labels":{}}}}`, `"Labels"`},
		{"twice in an embedded struct", `{"labels":{},"Labels":{}}`, `"Labels"`},
		{"twice without a tag", `{"Plain":1,"plain":2}`, `"plain"`},
		{"twice as decoders read it", "{\"annotations\":{\"\xff\":\"\",\"\xfe\":\"\"}}", "\ufffd"},
		{"in case where names are free", `{"annotations":{"a":"1","A":"2","kind":"","Kind":""}}`, ""},
		{"in case in labels", `{"labels":{"a":"1","A":"2","kind":"","Kind":""}}`, ""},
		{"twice where names are free", `{"annotations":{"a":"1","a":"2"}}`, `"a"`},
		{"in case below what is unknown", `{"x":{"kind":1,"Kind":2}}`, ""},
		{"in case below what is kept as it is", `{"raw":{"kind":1,"Kind":2},"left":1,"Left":2}`, ""},
		{"twice after them", `{"annotations":{"a":"1"},"raw":{},"config":{"kind":1,"KIND":1}}`, `"KIND"`},
		{"known one level up", `{"config":[{"kind":1,"Kind":2}]}`, ""},
		{"as many values as may be", values(JSONValues), ""},
		{"one more", values(JSONValues + 1), "values"},
		{"as deep as may be", deep(JSONDepth), ""},
		{"deeper", deep(JSONDepth + 1), "deep"},
		{"no end", `{"a":"`, ""},
		{"too many ends", `]]]}}},,::`, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := CheckJSON([]byte(c.text), document{})
			var of *jsonError
			if c.want == "" && err != nil || c.want != "" && (!errors.As(err, &of) || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("CheckJSON: %v, want %q", err, c.want)
			}
		})
	}
}

// FuzzCheckJSON: what passes has no key twice, and no field of the type twice in case.
func FuzzCheckJSON(f *testing.F) {
	for _, s := range []string{`{"kind":"","Kind":""}`, `{"layers":[{"kind":"x","config":{"KIND":""}}]}`, `[`, `"\"`, `{"kind":"","\u006bind":""}`, `{"named":{"a":{"labels":{"A":"","a":""}}}}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if CheckJSON(raw, document{}) != nil || !json.Valid(raw) {
			return
		}
		var first, last document
		if json.Unmarshal(raw, &last) != nil || json.Unmarshal(backwards(t, raw), &first) != nil {
			return
		}
		a, errA := json.Marshal(first)
		b, errB := json.Marshal(last)
		if errA != nil || errB != nil || string(a) != string(b) {
			t.Errorf("%q depends on the order of its fields: %s, %s", raw, a, b)
		}
	})
}

// backwards is a document with the fields of its objects the other way around.
func backwards(t *testing.T, raw []byte) []byte {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	out, err := turned(d)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func turned(d *json.Decoder) ([]byte, error) {
	token, err := d.Token()
	if err != nil {
		return nil, err
	}
	begin, ok := token.(json.Delim)
	if !ok {
		return json.Marshal(token)
	}
	var parts []string
	for d.More() {
		part := ""
		if begin == '{' {
			key, err := d.Token()
			if err != nil {
				return nil, err
			}
			quoted, err := json.Marshal(key)
			if err != nil {
				return nil, err
			}
			part = string(quoted) + ":"
		}
		value, err := turned(d)
		if err != nil {
			return nil, err
		}
		parts = append(parts, part+string(value))
	}
	end, err := d.Token()
	if err != nil {
		return nil, err
	}
	if begin == '{' {
		slices.Reverse(parts)
	}
	return []byte(begin.String() + strings.Join(parts, ",") + end.(json.Delim).String()), nil
}
