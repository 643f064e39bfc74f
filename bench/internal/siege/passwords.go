package siege

import (
	"fmt"
	"os"
	"path/filepath"
)

// Passwords writes a file of passwords into a folder, in which honest and mallory have the same. edit
// replaces it by one that has them, too, and more or fewer others.
func Passwords(dir, hash string) (path string, edit func(n int), err error) {
	const most = 5
	path = filepath.Join(dir, "users")
	write := func(n int) error {
		text := fmt.Sprintf("honest:%[1]s\nmallory:%[1]s\n", hash)
		for i := range n % most {
			text += fmt.Sprintf("user%d:%s\n", i, hash)
		}
		if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
			return err
		}
		return os.Rename(path+".new", path)
	}
	edit = func(n int) { _ = write(n) } // what can't be written changes nothing
	return path, edit, write(0)
}
