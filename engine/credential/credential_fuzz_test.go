package credential_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
	"unicode"

	"drayage/engine/credential"
)

// files are credential files as they are met, and some that are not quite.
var files = []string{
	`{"auths":{"https://index.docker.io/v1/":{"auth":"dTpw"}}}`, `{"auths":{"r.example":{"auth":"dTpwAA=="},"r.example/team":{"username":"u","password":"p"}}}`, `{"auths":{"r.example:5000/v2/":{"identitytoken":"t"}}}`,
	`{"auths":{"r.example":{}},"credsStore":"absent","credHelpers":{"r.example":"","x":"../../bin/sh"}}`, `{"r.example":{"auth":"dTpw","email":"x"}}`, `{"auths":[]}`, `{"auths":{"r.example":[]}}`, `{"credHelpers":[]}`, `{"credsStore":5}`, `{`, `[]`, `null`,
	"\xef\xbb\xbf{\"auths\":{}}", "\xff\xfe{\x00}\x00", `{"auths":{"r.example":{"auth":"dTpw"},"R.EXAMPLE":{"auth":"eDp5"},"http://r.example":{"auth":"%%%"}}}`, `{"auths":{"":{"auth":"Og=="}},"Auths":{}}`, "auth = dTpw\nemail = x\n", "u:p", "dTpw", "eyJhdXRocyI6e319", "u:p\nx", "\x1b[31m:p",
	`{"auths":{"r.example":{"auth":"` + base64.StdEncoding.EncodeToString([]byte("u:p\r\nX: y")) + `"}}}`,
}

// lonely makes a machine of a test's own, on which nobody has logged in.
func lonely(f *testing.F) (config string) {
	f.Helper()
	dir := f.TempDir()
	for _, name := range []string{"HOME", "DOCKER_CONFIG", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME"} {
		f.Setenv(name, dir)
	}
	f.Setenv("REGISTRY_AUTH_FILE", filepath.Join(dir, "auth.json"))
	f.Setenv("DOCKER_AUTH_CONFIG", "")
	f.Setenv("PATH", dir)
	return filepath.Join(dir, "config.json")
}

// checkFound fails when what was found can't be sent to a registry as it is, or when a fault isn't
// one printable line.
func checkFound(t *testing.T, c credential.Credential, faults []*credential.Error, err error) {
	t.Helper()
	if c.User != "" && strings.ContainsFunc(c.User+c.Password, func(r rune) bool { return r == '\r' || r == '\n' || r == 0 }) && err == nil {
		t.Logf("the credentials %q have ends of lines", c) // base64 takes them along; the registry refuses
	}
	for _, fault := range faults {
		checkLine(t, fault)
	}
	checkLine(t, err)
}

func checkLine(t *testing.T, err error) {
	t.Helper()
	const longest = 8000 // a registry's whole name stands in some
	if err != nil && (len(err.Error()) > longest || strings.ContainsFunc(err.Error(), func(r rune) bool { return !unicode.IsPrint(r) })) {
		t.Errorf("not a printable line: %.9000q", err)
	}
}

// FuzzStored looks for credentials in files of any content. A login on top of them is found again
// or refused, and a logout leaves nothing of it.
func FuzzStored(f *testing.F) {
	config := lonely(f)
	for i, s := range files {
		f.Add([]byte(s), uint8(i/2))
	}
	f.Fuzz(func(t *testing.T, raw []byte, form uint8) {
		path := config
		if form%2 == 1 {
			path = os.Getenv("REGISTRY_AUTH_FILE")
		}
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		defer os.Remove(config)
		defer os.Remove(os.Getenv("REGISTRY_AUTH_FILE"))
		get := func() credential.Credential {
			set := credential.Stored()
			set.Use(credential.Options{Deadline: time.Second, Warn: func(message string) { checkLine(t, fmt.Errorf("%s", message)) }})
			var found credential.Credential
			for _, registry := range []string{"docker.io", "r.example"} {
				c, faults, err := set.Get(t.Context(), registry, "team/app", func(...string) {})
				checkFound(t, c, faults, err)
				found = c
			}
			return found
		}
		get()
		if form%4 > 1 {
			return // a login waits for the disk
		}
		_, _, err := credential.Store(t.Context(), "r.example", "somebody", "secret")
		checkLine(t, err)
		if err == nil {
			written, errRead := os.ReadFile(config)
			var top map[string]json.RawMessage
			if errRead != nil || json.Unmarshal(written, &top) != nil {
				t.Errorf("%q became %q, %v", raw, written, errRead)
			}
			if c := get(); c.User != "somebody" && !strings.Contains(string(written), "team") && form%2 == 0 {
				t.Errorf("%q became %q, and has %q", raw, written, c.User)
			}
		} else if left, _ := os.ReadFile(config); form%2 == 0 && string(left) != string(raw) {
			t.Errorf("%v, and %q became %q", err, raw, left)
		}
		_, fault, err := credential.Remove(t.Context(), "r.example")
		checkLine(t, fault)
		checkLine(t, err)
		if left, _ := os.ReadFile(config); err == nil && strings.Contains(string(left), base64.StdEncoding.EncodeToString([]byte("somebody:secret"))) {
			t.Errorf("%q has the password after the logout", left)
		}
	})
}

// FuzzGiven reads credentials as users give them.
func FuzzGiven(f *testing.F) {
	config := lonely(f)
	for _, s := range files {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if err := os.WriteFile(config, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		defer os.Remove(config)
		set, err := credential.Given("file:" + config)
		checkLine(t, err)
		if err != nil {
			return
		}
		set.Use(credential.Options{Deadline: time.Second, Warn: func(message string) { checkLine(t, fmt.Errorf("%s", message)) }})
		c, faults, err := set.Get(t.Context(), "r.example", "team/app", func(...string) {})
		checkFound(t, c, faults, err)
		if set.ForOne() && (c.User == "" || c.Password == "") {
			t.Errorf("%q was taken, and there are none in it: %v", raw, err)
		}
	})
}

// FuzzHelper runs a helper that says anything, well or ill.
func FuzzHelper(f *testing.F) {
	if runtime.GOOS == "windows" {
		f.Skip("the helper is a script")
	}
	config := lonely(f)
	dir := filepath.Dir(config)
	program := "#!/bin/sh\nread server\nwhile IFS= read -r line || [ -n \"$line\" ]; do printf '%s\\n' \"$line\"; done < " + dir + "/says\nread status < " + dir + "/status\nexit $status\n"
	if err := os.WriteFile(filepath.Join(dir, "docker-credential-puppet"), []byte(program), 0o700); err != nil {
		f.Fatal(err)
	}
	if err := os.WriteFile(config, []byte(`{"credsStore":"puppet"}`), 0o600); err != nil {
		f.Fatal(err)
	}
	for _, s := range []string{
		`{"ServerURL":"r.example","Username":"u","Secret":"p"}`, `{"Username":"<token>","Secret":"t"}`, `{"Username":5}`, `{`, ``, `null`, `[]`, "credentials not found in native keychain", "panic: \x1b[31m\n\n", `{"Username":"u","Secret":"p"}{}`, `{"username":"u","USERNAME":"v","secret":"a\nb"}`,
	} {
		f.Add([]byte(s), false)
	}
	f.Add([]byte("credentials not found"), true)
	f.Add([]byte("\x1b]0;x\x07 secret"), true)
	f.Fuzz(func(t *testing.T, says []byte, fails bool) {
		status := "0\n"
		if fails {
			status = "1\n"
		}
		for name, text := range map[string]string{"says": string(says), "status": status} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		set := credential.Stored()
		set.Use(credential.Options{Deadline: 30 * time.Second, Warn: func(message string) { checkLine(t, fmt.Errorf("%s", message)) }})
		c, faults, err := set.Get(ctx, "r.example", "team/app", func(...string) {})
		checkFound(t, c, faults, err)
		if fails && c != (credential.Credential{}) {
			t.Errorf("it failed, and gives %q", c)
		}
	})
}
