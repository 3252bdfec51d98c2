// Package plugin is the plugin under test: how it is described, started and told to change.
package plugin

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"time"
)

// Description says of one plugin how to start it and what can be ordered from it. Commands are lists of arguments,
// in which placeholders are filled in; README.md has the whole list.
type Description struct {
	Name string `json:"name"`
	// Start runs the plugin in the foreground, until it is ended.
	Start []string `json:"start"`
	// Activated is Start with the listening socket as descriptor 3, as systemd passes it.
	Activated []string `json:"activated"`
	// Backend runs beside the plugins of a case, for as long as the case does.
	Backend []string `json:"backend"`
	// Setup is run once for each shared directory, before the first plugin starts.
	Setup []string `json:"setup"`
	// Rotate makes the next key the one that encrypts.
	Rotate []string `json:"rotate"`
	// Outage takes the backend away (`on`) and gives it back (`off`).
	Outage []string `json:"outage"`
	// Degrade takes one member of several away (`on`) and gives it back (`off`).
	Degrade []string `json:"degrade"`
	// Decrypts prints how many Decrypt the plugin has answered since it started, as it counts them itself.
	Decrypts []string `json:"decrypts"`
	// Retirable judges whether a key that was left may be retired: it ends with 0 if it may, and with 1 if not.
	Retirable []string `json:"retirable"`
	// Env is added to the environment of all of these.
	Env map[string]string `json:"env"`
	// Clients are the Kubernetes releases that must be served on either kind of socket.
	Clients struct {
		Path     []string `json:"path"`
		Abstract []string `json:"abstract"`
	} `json:"clients"`
	// Within says in how many seconds an order must have taken effect.
	Within Within `json:"within_s"`
	// P99 is what 99 of 100 calls must not exceed.
	P99 int `json:"p99_ms"`

	values map[string]string
}

// Within is in seconds.
type Within struct {
	Start   float64 `json:"start"`
	Stop    float64 `json:"stop"`
	Rotate  float64 `json:"rotate"`
	Outage  float64 `json:"outage"`
	Degrade float64 `json:"degrade"`
}

// Seconds as a duration.
func Seconds(seconds float64) time.Duration { return time.Duration(seconds * float64(time.Second)) }

// What is filled in for a case, an instance or an order.
var placeholders = []string{
	"dir", "case", "backend", "socket", "endpoint", "instance", "state", "provider", "old", "apiservers", "metrics",
}

// Read reads a description from a file, or from the standard input if it is called `-`. The values are further
// placeholders.
func Read(file string, values map[string]string) (*Description, error) {
	var text []byte
	var err error
	if file == "-" {
		text, err = io.ReadAll(os.Stdin)
	} else {
		text, err = os.ReadFile(file)
	}
	if err != nil {
		return nil, err
	}
	description := &Description{
		Within: Within{Start: 10, Stop: 10, Rotate: 30, Outage: 120, Degrade: 30},
		P99:    100,
		values: values,
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(description); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if description.Name == "" || len(description.Start) == 0 {
		return nil, fmt.Errorf("%s: `name` and `start` are needed", file)
	}
	known := map[string]string{}
	for _, name := range placeholders {
		known[name] = ""
	}
	for _, command := range [][]string{
		description.Start, description.Activated, description.Backend, description.Setup,
		description.Rotate, description.Outage, description.Degrade, description.Decrypts, description.Retirable,
		description.environment(),
	} {
		if _, err := description.fill(command, known); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
	}
	return description, nil
}

var placeholder = regexp.MustCompile(`\{[a-z_]+\}`)

// fill puts values in the place of placeholders. One that nobody knows is an error: it is a slip of the pen.
func (d *Description) fill(command []string, values map[string]string) ([]string, error) {
	var err error
	filled := make([]string, len(command))
	for index, argument := range command {
		filled[index] = placeholder.ReplaceAllStringFunc(argument, func(found string) string {
			name := strings.Trim(found, "{}")
			if value, known := values[name]; known {
				return value
			}
			if value, known := d.values[name]; known {
				return value
			}
			err = fmt.Errorf("%s is no placeholder here; --set gives it a value", found)
			return found
		})
	}
	return filled, err
}

// environment is what is added to that of the harness.
func (d *Description) environment() []string {
	var added []string
	for key, value := range d.Env {
		added = append(added, key+"="+value)
	}
	return added
}

// perInstance says whether an order goes to each instance, because it names it.
func perInstance(command []string) bool {
	text := strings.Join(command, " ")
	return strings.Contains(text, "{instance}") || strings.Contains(text, "{socket}") || strings.Contains(text, "{endpoint}")
}

// OneAlone says whether a member can be taken away from one instance while the others keep theirs.
func (d *Description) OneAlone() bool { return perInstance(d.Degrade) }
