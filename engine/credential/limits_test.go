package credential_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"drayage/engine/credential"
	"drayage/engine/internal/limits"
	"drayage/engine/limitstest"
)

// nothing forgets secrets.
func nothing(...string) {}

// TestFilesOfLoginsTakeLittleMemory: whatever is in config.json, auth.json or DOCKER_AUTH_CONFIG.
func TestFilesOfLoginsTakeLittleMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes minutes on an emulated processor")
	}
	texts := make(map[string][]byte)
	for _, key := range []string{"auths", "credHelpers"} {
		for name, text := range limitstest.Texts(`{"`+key+`":`, `}`, limits.LoginBytes-10) {
			texts[key+": "+name] = text
		}
	}
	for name, text := range limitstest.Texts(``, ``, limits.LoginBytes-10) {
		texts["top: "+name] = text
	}
	many := func(begin, format, end string) []byte {
		var b strings.Builder
		b.WriteString(begin)
		for i := 0; b.Len() < limits.LoginBytes-100; i++ {
			if i > 0 {
				b.WriteByte(',')
			}
			fmt.Fprintf(&b, format, i)
		}
		b.WriteString(end)
		return []byte(b.String())
	}
	texts["many registries"] = many(`{"auths":{`, `"r%d":{}`, `}}`)
	texts["many registries with logins"] = many(`{"auths":{`, `"r%d":{"auth":"dTpw"}`, `}}`)
	texts["many helpers"] = many(`{"credHelpers":{`, `"r%d":"x"`, `}}`)
	texts["many at the top"] = many(`{`, `"r%d":{"auth":"dTpw"}`, `}`)
	texts["many numbers at the top"] = many(`{`, `"%x":0`, `}`)
	for name, text := range texts {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			t.Setenv("HOME", dir)
			t.Setenv("DOCKER_CONFIG", dir)
			t.Setenv("DOCKER_AUTH_CONFIG", "")
			path := filepath.Join(dir, "config.json")
			if err := os.WriteFile(path, text, 0o600); err != nil {
				t.Fatal(err)
			}
			limitstest.Within(t, limitstest.Most, func() {
				c, _, err := credential.Stored().Get(t.Context(), "registry.example", "a/b", nothing)
				if err != nil || c != (credential.Credential{}) {
					t.Errorf("%v, %v", c, err)
				}
			})
			if strings.Contains(name, ":") {
				return // what follows reads them as that did
			}
			limitstest.Within(t, limitstest.Most, func() { _, _ = credential.Given("file:" + path) })
			limitstest.Within(t, limitstest.Most, func() { _, _, _ = credential.Remove(t.Context(), "r1") })
		})
	}
}

// TestHelpersTakeLittleMemory: whatever a credential helper says.
func TestHelpersTakeLittleMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes minutes on an emulated processor")
	}
	dir := t.TempDir()
	t.Setenv("HOME", dir)
	t.Setenv("DOCKER_CONFIG", dir)
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	for name, text := range map[string]string{
		"config.json": `{"credsStore":"big"}`, "docker-credential-big": "#!/bin/sh\ncat " + dir + "/answer\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range limitstest.Texts(`{"Username":"u","Secret":`, `}`, limits.ManifestBytes) {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(filepath.Join(dir, "answer"), text, 0o600); err != nil {
				t.Fatal(err)
			}
			limitstest.Within(t, limitstest.Most, func() {
				c, faults, err := credential.Stored().Get(t.Context(), "registry.example", "a/b", nothing)
				if err != nil || len(faults) != 1 || c != (credential.Credential{}) {
					t.Errorf("%v, %v", faults, err)
				}
			})
		})
	}
}
