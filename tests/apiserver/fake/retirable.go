package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// retirable judges by the metrics of apiservers, each in a file of a folder, whether any of them may know of objects
// under a key whose id has this hash. An error is that it may not.
func retirable(old, apiservers, metrics string, faults faults) error {
	if faults == "retires-early" {
		return nil
	}
	files, err := filepath.Glob(filepath.Join(metrics, "*"))
	if err != nil {
		return err
	}
	if strconv.Itoa(len(files)) != apiservers {
		return fmt.Errorf("metrics of %d apiservers are given, and there are %s", len(files), apiservers)
	}
	// The fault takes the word of one apiserver for that of all, and as soon as it says so.
	hasty := faults == "retires-by-one"
	if hasty {
		files = files[:1]
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if err := proof(string(text), old, hasty); err != nil {
			return fmt.Errorf("%s: %w", filepath.Base(file), err)
		}
	}
	return nil
}

func proof(metrics, old string, hasty bool) error {
	const keyIDs = "apiserver_envelope_encryption_key_id_hash_"
	began, read := time.Now(), false
	for line := range strings.Lines(metrics) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if name == "process_start_time_seconds" {
			seconds, err := strconv.ParseFloat(value, 64)
			if err != nil {
				return err
			}
			began = time.Unix(int64(seconds), 0)
		}
		if strings.HasPrefix(name, keyIDs) && strings.Contains(name, old) {
			return fmt.Errorf("it knows of the old key: %s", line)
		}
		read = read || strings.HasPrefix(name, keyIDs) && strings.Contains(name, `"from_storage"`)
	}
	if !read {
		return fmt.Errorf("it has read nothing")
	}
	if !hasty && time.Since(began) < 3*time.Minute {
		return fmt.Errorf("it began less than three minutes ago")
	}
	return nil
}
