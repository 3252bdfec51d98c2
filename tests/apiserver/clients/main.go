// kmscheck proves a KMS v2 plugin with the code that Kubernetes runs against it.
//
//	kmscheck library|apiserver --plugin FILE [--case NAME]… [--set KEY=VALUE]… [--parallel N] [--keep] [--list]
//	kmscheck coldstart --plugin FILE [--secrets N] [--seeds N] [--starts N] [--set KEY=VALUE]… [--keep]
//	kmscheck selftest library|apiserver [--case NAME]…
//
// ../README.md says what each level is, and how a plugin is described.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"k8s.io/klog/v2"

	"bulla.test/clients/check"
	"bulla.test/clients/cluster"
	"bulla.test/clients/library"
	"bulla.test/clients/plugin"
	"bulla.test/clients/process"
	"bulla.test/clients/selftest"
)

type arguments struct {
	level    string
	plugin   string
	bin      string
	cases    list
	set      list
	parallel int
	keep     bool
	list     bool
	amount   cluster.Amount
}

type list []string

func (l *list) String() string { return strings.Join(*l, ",") }

func (l *list) Set(value string) error {
	*l = append(*l, value)
	return nil
}

func main() {
	good, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "kmscheck:", err)
		os.Exit(2)
	}
	if !good {
		os.Exit(1)
	}
}

func run(words []string) (bool, error) {
	asked, err := parse(words)
	if err != nil {
		return false, err
	}
	cases, err := casesOf(asked)
	if err != nil {
		return false, err
	}
	cases, err = check.Select(cases, asked.cases)
	if err != nil {
		return false, err
	}
	if asked.list {
		for _, one := range cases {
			fmt.Println(strings.TrimSpace(one.Name + "  " + one.Skip))
		}
		return true, nil
	}
	silence()
	dir, err := os.MkdirTemp("", "kmscheck-")
	if err != nil {
		return false, err
	}
	if asked.keep {
		fmt.Fprintln(os.Stderr, "kmscheck: the cases' files stay in", dir)
	}
	leave := func() {
		process.KillAll()
		if !asked.keep {
			os.RemoveAll(dir)
		}
	}
	defer leave()
	stopped := make(chan os.Signal, 1)
	signal.Notify(stopped, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		<-stopped
		leave()
		os.Exit(2)
	}()
	return check.Run(cases, check.Options{Dir: dir, Keep: asked.keep, Parallel: asked.parallel}), nil
}

func parse(words []string) (*arguments, error) {
	if len(words) == 0 {
		return nil, fmt.Errorf("library, apiserver, coldstart, or selftest?")
	}
	asked := &arguments{level: words[0]}
	words = words[1:]
	if asked.level == "selftest" && len(words) > 0 {
		asked.level, words = asked.level+" "+words[0], words[1:]
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	flags := flag.NewFlagSet("kmscheck", flag.ExitOnError)
	flags.StringVar(&asked.plugin, "plugin", "", "the description of the plugin, or - for the standard input")
	flags.StringVar(&asked.bin, "bin", filepath.Dir(self), "the folder of the harness's programs")
	flags.Var(&asked.cases, "case", "only this case; may be repeated")
	flags.Var(&asked.set, "set", "KEY=VALUE: a further placeholder; may be repeated")
	flags.IntVar(&asked.parallel, "parallel", 0, "how many cases at once; 0 is what suits the level")
	flags.BoolVar(&asked.keep, "keep", false, "keep the cases' files")
	flags.BoolVar(&asked.list, "list", false, "name the cases, and run none")
	if asked.level == "coldstart" {
		flags.IntVar(&asked.amount.Secrets, "secrets", 10_000, "how many Secrets lie there")
		flags.IntVar(&asked.amount.Seeds, "seeds", 3, "of how many seeds they are")
		flags.IntVar(&asked.amount.Starts, "starts", 3, "how often plugin and apiserver are started over them")
		flags.DurationVar(&asked.amount.Patience, "patience", 2*time.Minute, "how long a start may take")
	}
	if err := flags.Parse(words); err != nil {
		return nil, err
	}
	if flags.NArg() > 0 {
		return nil, fmt.Errorf("what is %q?", flags.Arg(0))
	}
	if amount := asked.amount; asked.level == "coldstart" &&
		(amount.Seeds < 1 || amount.Starts < 1 || amount.Secrets < amount.Seeds) {
		return nil, fmt.Errorf("at least one start, one seed, and one Secret of each seed")
	}
	asked.bin, err = filepath.Abs(asked.bin)
	return asked, err
}

func casesOf(asked *arguments) ([]check.Case, error) {
	level, self := strings.CutPrefix(asked.level, "selftest ")
	if asked.parallel == 0 {
		// An apiserver takes both cores for some seconds and 0.4 GB with its etcd; the rest of the time all only wait.
		asked.parallel = map[string]int{"library": 24, "apiserver": 4, "selftest library": 16, "selftest apiserver": 4}[asked.level]
	}
	if self {
		return selftest.Cases(level, asked.bin)
	}
	values := map[string]string{"bin": asked.bin}
	for _, pair := range asked.set {
		key, value, found := strings.Cut(pair, "=")
		if !found {
			return nil, fmt.Errorf("--set takes KEY=VALUE, not %q", pair)
		}
		values[key] = value
	}
	if asked.plugin == "" {
		return nil, fmt.Errorf("--plugin says which plugin")
	}
	description, err := plugin.Read(asked.plugin, values)
	if err != nil {
		return nil, err
	}
	switch level {
	case "library":
		return library.Cases(description, asked.bin), nil
	case "apiserver":
		return cluster.Cases(description, asked.bin), nil
	case "coldstart":
		return cluster.ColdStart(description, asked.bin, asked.amount), nil
	default:
		return nil, fmt.Errorf("library, apiserver, coldstart, or selftest, not %q", level)
	}
}

// silence keeps the words of Kubernetes' code out of the report.
func silence() {
	flags := flag.NewFlagSet("klog", flag.ContinueOnError)
	klog.InitFlags(flags)
	_ = flags.Set("logtostderr", "false")
	_ = flags.Set("stderrthreshold", "FATAL")
	klog.SetOutput(io.Discard)
}
