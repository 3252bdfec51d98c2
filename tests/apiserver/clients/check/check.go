// Package check runs cases side by side and says of each `ok`, `FAILED` or `skipped`.
package check

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"sort"
	"strings"
	"sync"
	"time"

	"bulla.test/clients/process"
)

// Case is one thing to be shown.
type Case struct {
	Name string
	// Why it is not run; empty if it is.
	Skip string
	// Alone: beside no other case, because it measures.
	Alone bool
	// Limit is when to give up.
	Limit time.Duration
	Run   func(*T)
}

// T is a case at work. Only the goroutine that runs the case may fail it.
type T struct {
	Name string
	// Dir is the case's own; it goes when the case ends.
	Dir      string
	lock     sync.Mutex
	cleanups []func()
	figures  []string
}

// The end of a case that has failed, carried by a panic.
type failure struct{ why string }

// Failf ends the case as failed.
func (t *T) Failf(format string, values ...any) { panic(failure{fmt.Sprintf(format, values...)}) }

// Must ends the case as failed if there is an error.
func (t *T) Must(err error, doing string, values ...any) {
	if err != nil {
		t.Failf("%s: %v", fmt.Sprintf(doing, values...), err)
	}
}

// Refused ends the case as failed if there is no error, or another than one that says `with`.
func (t *T) Refused(err error, with, doing string, values ...any) {
	doing = fmt.Sprintf(doing, values...)
	if err == nil {
		t.Failf("%s was not refused", doing)
	}
	if !strings.Contains(err.Error(), with) {
		t.Failf("%s was refused, but not with %q: %v", doing, with, err)
	}
}

// Within tries until there is no error, and says how long that took.
func (t *T) Within(limit time.Duration, doing string, try func() error) time.Duration {
	begin := time.Now()
	for {
		err := try()
		if err == nil {
			return time.Since(begin)
		}
		if time.Since(begin) > limit {
			t.Failf("%s: not within %s: %v", doing, limit, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// Cleanup is done when the case ends, the last one first.
func (t *T) Cleanup(work func()) {
	t.lock.Lock()
	defer t.lock.Unlock()
	t.cleanups = append(t.cleanups, work)
}

// Figure is shown after all cases.
func (t *T) Figure(format string, values ...any) {
	t.lock.Lock()
	defer t.lock.Unlock()
	t.figures = append(t.figures, fmt.Sprintf(format, values...))
}

// Options say how cases are run.
type Options struct {
	// Dir holds the cases' directories.
	Dir string
	// Keep leaves them there.
	Keep     bool
	Parallel int
	// Only these, if any are named.
	Only []string
}

// Select takes the named cases; all, if none is named.
func Select(cases []Case, names []string) ([]Case, error) {
	if len(names) == 0 {
		return cases, nil
	}
	var selected []Case
	for _, name := range names {
		found := false
		for _, one := range cases {
			if one.Name == name {
				selected, found = append(selected, one), true
			}
		}
		if !found {
			return nil, fmt.Errorf("there is no case %q; --list shows them", name)
		}
	}
	return selected, nil
}

// Run runs the cases, prints a line for each and the figures after them, and says whether none has failed.
func Run(cases []Case, options Options) bool {
	begin := time.Now()
	runner := &runner{options: options, good: true}
	for _, one := range cases {
		if one.Skip == "" && one.Alone {
			runner.run(one)
		}
	}
	free := make(chan struct{}, max(1, options.Parallel))
	var all sync.WaitGroup
	for _, one := range cases {
		switch {
		case one.Skip != "":
			fmt.Printf("skipped %s: %s\n", one.Name, one.Skip)
		case !one.Alone:
			free <- struct{}{}
			all.Go(func() {
				runner.run(one)
				<-free
			})
		}
	}
	all.Wait()
	sort.Strings(runner.figures)
	for _, figure := range runner.figures {
		fmt.Println("figure", figure)
	}
	fmt.Printf("figure all cases: %.0f s; the slowest, %s: %.0f s\n", time.Since(begin).Seconds(), runner.slowest, runner.longest.Seconds())
	return runner.good
}

type runner struct {
	options Options
	lock    sync.Mutex
	good    bool
	figures []string
	longest time.Duration
	slowest string
}

func (r *runner) run(one Case) {
	t := &T{Name: one.Name, Dir: filepath.Join(r.options.Dir, one.Name)}
	begin := time.Now()
	ended := make(chan string, 1)
	go func() { ended <- t.attempt(one) }()
	why := ""
	select {
	case why = <-ended:
	case <-time.After(one.Limit):
		why = fmt.Sprintf("not done within %s", one.Limit)
	}
	logs := t.tails(why)
	t.clean()
	if !r.options.Keep {
		os.RemoveAll(t.Dir)
	}
	r.lock.Lock()
	defer r.lock.Unlock()
	if why == "" {
		fmt.Printf("ok %s\n", one.Name)
	} else {
		r.good = false
		fmt.Printf("FAILED %s: %s\n", one.Name, strings.Join(strings.Fields(why), " "))
		fmt.Fprint(os.Stderr, logs)
	}
	t.lock.Lock()
	defer t.lock.Unlock()
	if took := time.Since(begin); took > r.longest {
		r.longest, r.slowest = took, one.Name
	}
	for _, figure := range t.figures {
		r.figures = append(r.figures, one.Name+": "+figure)
	}
}

// attempt runs the case, and says why it failed.
func (t *T) attempt(one Case) (why string) {
	defer func() {
		switch stopped := recover().(type) {
		case nil:
		case failure:
			why = stopped.why
		default:
			why = fmt.Sprintf("the harness itself failed: %v at %s", stopped, debug.Stack())
		}
	}()
	if err := os.MkdirAll(t.Dir, 0o700); err != nil {
		return err.Error()
	}
	one.Run(t)
	return ""
}

func (t *T) clean() {
	for {
		t.lock.Lock()
		if len(t.cleanups) == 0 {
			t.lock.Unlock()
			return
		}
		last := t.cleanups[len(t.cleanups)-1]
		t.cleanups = t.cleanups[:len(t.cleanups)-1]
		t.lock.Unlock()
		last()
	}
}

// tails are the ends of what the processes of a failed case wrote, for the person who looks for the reason.
func (t *T) tails(why string) string {
	if why == "" {
		return ""
	}
	var text strings.Builder
	logs, _ := filepath.Glob(filepath.Join(t.Dir, "*.log"))
	for _, log := range logs {
		fmt.Fprintf(&text, "  %s %s ends:\n", t.Name, filepath.Base(log))
		for line := range strings.Lines(process.Tail(log, 5)) {
			fmt.Fprintf(&text, "    %.300s\n", strings.TrimSuffix(line, "\n"))
		}
	}
	return text.String()
}
