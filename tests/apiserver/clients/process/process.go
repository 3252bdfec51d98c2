// Package process starts programs so that none of them outlives the harness: each leads a process group, is killed by
// the kernel when the harness dies, and writes to a log file of its own.
package process

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Process is one running program.
type Process struct {
	Name    string
	Log     string
	command *exec.Cmd
	ended   chan struct{}
	err     error
}

// Command is what is to be run.
type Command struct {
	Name string
	Args []string
	// Env is added to the harness's own.
	Env []string
	Dir string
	// Log is the file that takes both outputs; it is appended to.
	Log string
	// Files become the descriptors 3, 4, ….
	Files []*os.File
	// Apart gives it a hostname that it may change, if Apart says that this can be.
	Apart bool
}

// Apart says whether processes can have hostnames of their own.
var Apart = sync.OnceValue(func() bool {
	tried := exec.Command("true")
	tried.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUTS}
	return tried.Run() == nil
})

// The parent's death, of which the kernel tells, is that of the thread that forked. So one thread, which never ends,
// forks for everybody.
var forks = make(chan func())

var (
	lock    sync.Mutex
	running = map[*Process]bool{}
	// over is set by KillAll: nothing is started after it.
	over bool
)

func init() {
	go func() {
		runtime.LockOSThread()
		for fork := range forks {
			fork()
		}
	}()
}

// Start runs a command in a process group of its own.
func Start(command Command) (*Process, error) {
	log, err := os.OpenFile(command.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(command.Args[0], command.Args[1:]...)
	cmd.Env = append(os.Environ(), command.Env...)
	cmd.Dir, cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = command.Dir, log, log, command.Files
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if command.Apart && Apart() {
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWUTS
	}
	process := &Process{Name: command.Name, Log: command.Log, command: cmd, ended: make(chan struct{})}
	started := make(chan error)
	forks <- func() { started <- cmd.Start() }
	if err := <-started; err != nil {
		return nil, fmt.Errorf("%s does not start: %w", command.Name, err)
	}
	lock.Lock()
	running[process] = true
	late := over
	lock.Unlock()
	if late {
		process.signal(syscall.SIGKILL)
	}
	go func() {
		process.err = cmd.Wait()
		lock.Lock()
		delete(running, process)
		lock.Unlock()
		close(process.ended)
	}()
	return process, nil
}

// Run runs a command to its end; one that ends badly, or not in time, is an error with the last line that it wrote.
func Run(command Command, limit time.Duration) error {
	process, err := Start(command)
	if err != nil {
		return err
	}
	select {
	case <-process.ended:
	case <-time.After(limit):
		process.Kill()
		return fmt.Errorf("%s: not done within %s", command.Name, limit)
	}
	if process.err != nil {
		return fmt.Errorf("%s: %w: %s", command.Name, process.err, Tail(command.Log, 1))
	}
	return nil
}

// Pid is the number of the process and of its group.
func (p *Process) Pid() int { return p.command.Process.Pid }

// Alive says whether it has not ended.
func (p *Process) Alive() error {
	select {
	case <-p.ended:
		return fmt.Errorf("%s has ended (%v): %s", p.Name, p.command.ProcessState, Tail(p.Log, 1))
	default:
		return nil
	}
}

func (p *Process) signal(signal syscall.Signal) { _ = syscall.Kill(-p.Pid(), signal) }

// Kill ends the whole group at once, and waits for that.
func (p *Process) Kill() {
	p.signal(syscall.SIGKILL)
	<-p.ended
}

// Terminate asks for the end; what has not ended after the limit is killed, and that is an error.
func (p *Process) Terminate(limit time.Duration) error {
	p.signal(syscall.SIGTERM)
	select {
	case <-p.ended:
		// What it has left of its group goes too.
		p.signal(syscall.SIGKILL)
		return nil
	case <-time.After(limit):
		p.Kill()
		return fmt.Errorf("%s did not end within %s of SIGTERM", p.Name, limit)
	}
}

// Freeze stops the group as a hang would. A stop takes effect some time after the signal, so every thread is waited for.
func (p *Process) Freeze() error {
	p.signal(syscall.SIGSTOP)
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if p.frozen() {
			return nil
		}
	}
	return fmt.Errorf("%s does not stop", p.Name)
}

// Thaw lets a frozen group go on.
func (p *Process) Thaw() { p.signal(syscall.SIGCONT) }

func (p *Process) frozen() bool {
	states, _ := filepath.Glob("/proc/" + strconv.Itoa(p.Pid()) + "/task/*/stat")
	for _, file := range states {
		line, err := os.ReadFile(file)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		// The state is the first field after the name, which stands in parentheses and may hold any sign.
		_, rest, found := strings.Cut(string(line[strings.LastIndexByte(string(line), ')')+1:]), " ")
		if err != nil || !found || !strings.HasPrefix(rest, "T") {
			return false
		}
	}
	return len(states) > 0
}

// KillAll ends everything that still runs.
func KillAll() {
	lock.Lock()
	over = true
	left := make([]*Process, 0, len(running))
	for process := range running {
		left = append(left, process)
	}
	lock.Unlock()
	for _, process := range left {
		process.Kill()
	}
}

// Tail is the end of a log.
func Tail(file string, lines int) string {
	text, err := os.ReadFile(file)
	if err != nil || len(strings.TrimSpace(string(text))) == 0 {
		return "(it wrote nothing)"
	}
	all := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
