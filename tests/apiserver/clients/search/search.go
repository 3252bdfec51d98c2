// Package search looks for secrets where none may be.
package search

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Files tells which files under a directory hold these bytes.
func Files(dir string, secret []byte) ([]string, error) {
	var found []string
	err := filepath.WalkDir(dir, func(file string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if Holds(text, secret) {
			found = append(found, file)
		}
		return err
	})
	return found, err
}

// Holds says whether a text holds these bytes: raw, as hex, as a list of numbers such as debuggers print, or inside
// base64 at any of the three places of its groups.
func Holds(text, secret []byte) bool {
	lower := hex.EncodeToString(secret)
	forms := [][]byte{secret, []byte(lower), []byte(strings.ToUpper(lower))}
	for _, between := range []string{" ", ", ", ","} {
		numbers := make([]string, len(secret))
		for index, value := range secret {
			numbers[index] = fmt.Sprint(value)
		}
		forms = append(forms, []byte(strings.Join(numbers, between)))
	}
	for before := range 3 {
		for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			whole := encoding.EncodeToString(append(make([]byte, before), secret...))
			// The signs at either end depend on the neighbours.
			forms = append(forms, []byte(whole[(before*4+2)/3:len(whole)-1]))
		}
	}
	return slices.ContainsFunc(forms, func(form []byte) bool { return bytes.Contains(text, form) })
}
