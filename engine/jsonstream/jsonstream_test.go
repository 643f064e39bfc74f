package jsonstream_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"drayage/engine/internal/limits"
	"drayage/engine/jsonstream"
)

// document is read by Document.
type document struct {
	Name string `json:"name"`
	List []int  `json:"list"`
}

func read(text string) (document, error) {
	s := jsonstream.New(strings.NewReader(text), nil)
	var d document
	err := s.Document(&d, map[string]func() error{"list": func() error {
		var n int
		_, err := s.Entry(&n)
		d.List = append(d.List, n)
		return err
	}})
	return d, s.EndAfter(err)
}

func TestDocument(t *testing.T) {
	for _, c := range []struct {
		text string
		want error
	}{
		{`{}`, nil}, {` { "name" : "a" , "list" : [ 1 , 2 ] , "more" : {"x":[{}]} } `, nil}, {`{"list":[]}`, nil}, {`{"list":null}`, nil}, {`{"LIST":[1]}`, nil},
		{``, jsonstream.ErrJSON}, {`[]`, jsonstream.ErrJSON}, {`{`, jsonstream.ErrJSON}, {`{"name"}`, jsonstream.ErrJSON}, {`{"name":}`, jsonstream.ErrJSON}, {`{"list":[1,]}`, jsonstream.ErrJSON},
		{`{"list":[1 2]}`, jsonstream.ErrJSON}, {`{"list":["a"]}`, jsonstream.ErrJSON}, {`{"list":{}}`, jsonstream.ErrJSON}, {`{} {}`, jsonstream.ErrJSON}, {`{"name":"a}`, jsonstream.ErrJSON},
		{`{"name":1,"name":2}`, jsonstream.ErrJSON}, {`{"list":[],"List":[]}`, jsonstream.ErrJSON}, {`{"name":"a","Name":"b"}`, jsonstream.ErrJSON}, {`{1:2}`, jsonstream.ErrJSON},
		{`{"list":[` + strings.Repeat(" ", 2*limits.EntryBytes) + `]}`, nil},
		{`{"list":["` + strings.Repeat("x", limits.EntryBytes) + `"]}`, jsonstream.ErrTooMuch}, {`{"more":"` + strings.Repeat("x", limits.EntryBytes) + `"}`, jsonstream.ErrTooMuch},
		{`{"more":` + strings.Repeat("[", limits.JSONDepth+1), jsonstream.ErrTooMuch}, {`{"` + strings.Repeat("x", limits.ArchiveName) + `":1}`, jsonstream.ErrTooMuch},
	} {
		if _, err := read(c.text); !errors.Is(err, c.want) || err != nil && (len(err.Error()) > 300 || strings.Contains(err.Error(), "\n")) {
			t.Errorf("%.60s: %v, want %v", c.text, err, c.want)
		}
	}
	stop := errors.New("enough")
	s := jsonstream.New(strings.NewReader(`{"a":1,"b":2}`), func(int) error { return stop })
	if err := s.Object(func(string) error { return s.Skip() }); !errors.Is(err, stop) {
		t.Errorf("the cost of names: %v", err)
	}
}

// What Document takes, encoding/json takes, and to the same.
func FuzzDocument(f *testing.F) {
	f.Add(`{"name":"a","list":[1,2],"more":{"x":[{}]}}`)
	f.Add(`{"list":null,"Name":"\u0061"}`)
	f.Fuzz(func(t *testing.T, text string) {
		got, err := read(text)
		if err != nil {
			return
		}
		var want document
		if err := json.Unmarshal([]byte(text), &want); err != nil {
			t.Fatalf("%q is taken for JSON: %v", text, err)
		}
		if got.Name != want.Name || len(got.List) != len(want.List) {
			t.Errorf("%q: %v, and encoding/json has %v", text, got, want)
		}
	})
}
