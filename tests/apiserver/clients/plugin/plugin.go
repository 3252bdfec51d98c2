package plugin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"k8s.io/apiserver/pkg/storage/value/encrypt/envelope/kmsv2"
	"k8s.io/kms/pkg/service"

	"bulla.test/clients/check"
	"bulla.test/clients/process"
)

// CallTimeout is the one that an EncryptionConfiguration has unless it says otherwise.
const CallTimeout = 3 * time.Second

// Fleet are the instances of a case: they share a directory, a backend and orders.
type Fleet struct {
	*Description
	t         *check.T
	dir       string
	backend   *process.Process
	instances []*Instance
}

// Instance is one plugin on one socket. It can be ended and started again.
type Instance struct {
	*process.Process
	Socket string
	fleet  *Fleet
	number int
	held   *os.File
}

// NewFleet makes what the instances of a case share.
func NewFleet(t *check.T, description *Description) *Fleet {
	fleet := &Fleet{Description: description, t: t, dir: filepath.Join(t.Dir, "shared")}
	t.Must(os.MkdirAll(fleet.dir, 0o700), "make the shared directory")
	if len(description.Backend) > 0 {
		backend, err := process.Start(fleet.command("backend", description.Backend, nil))
		t.Must(err, "start the backend")
		t.Cleanup(func() { backend.Kill() })
		fleet.backend = backend
	}
	if len(description.Setup) > 0 {
		t.Must(process.Run(fleet.command("setup", description.Setup, nil), 3*time.Minute), "set up the plugin")
	}
	return fleet
}

func (f *Fleet) command(name string, template []string, further map[string]string) process.Command {
	values := map[string]string{"dir": f.dir, "case": filepath.Base(filepath.Dir(f.t.Dir)) + "-" + f.t.Name, "backend": ""}
	if f.backend != nil {
		values["backend"] = strconv.Itoa(f.backend.Pid())
	}
	for key, value := range further {
		values[key] = value
	}
	arguments, err := f.fill(template, values)
	f.t.Must(err, "fill in the command of %s", name)
	command := process.Command{Name: name, Args: arguments, Dir: f.dir, Log: filepath.Join(f.t.Dir, name+".log")}
	command.Env, err = f.fill(f.environment(), values)
	f.t.Must(err, "fill in the environment of %s", name)
	return command
}

// Instance adds a plugin on a path socket, which does not run yet.
func (f *Fleet) Instance() *Instance {
	number := len(f.instances) + 1
	return f.add(filepath.Join(f.t.Dir, fmt.Sprintf("kms-%d.sock", number)))
}

// Abstract adds a plugin on a socket that has a name, but no file.
func (f *Fleet) Abstract() *Instance {
	return f.add("@" + filepath.Base(filepath.Dir(f.t.Dir)) + "-" + f.t.Name)
}

func (f *Fleet) add(socket string) *Instance {
	// The kernel's limit is 108 bytes with the zero at the end.
	if len(socket) > 107 {
		f.t.Failf("the path of the socket is too long, set TMPDIR to a shorter one: %s", socket)
	}
	instance := &Instance{Socket: socket, fleet: f, number: len(f.instances) + 1}
	f.instances = append(f.instances, instance)
	return instance
}

// Started adds an instance and starts it.
func (f *Fleet) Started() *Instance {
	instance := f.Instance()
	instance.Start()
	return instance
}

func (i *Instance) values() map[string]string {
	return map[string]string{"socket": i.Socket, "endpoint": i.Endpoint(), "instance": strconv.Itoa(i.number)}
}

// Endpoint is the socket as an EncryptionConfiguration names it.
func (i *Instance) Endpoint() string { return "unix:///" + strings.TrimPrefix(i.Socket, "/") }

// Hold listens in the plugin's place, as systemd does: from now on the plugin is given the socket when it starts.
func (i *Instance) Hold() {
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: i.Socket})
	i.fleet.t.Must(err, "listen at %s", i.Socket)
	listener.SetUnlinkOnClose(false)
	i.held, err = listener.File()
	i.fleet.t.Must(err, "keep the socket")
	i.fleet.t.Cleanup(func() { i.held.Close() })
	listener.Close()
}

// Launch starts the plugin, and does not wait until it answers.
func (i *Instance) Launch() {
	name := fmt.Sprintf("plugin-%d", i.number)
	template := i.fleet.Description.Start
	if i.held != nil {
		// The receiver checks that the descriptors are meant for its own process, whose number is known only inside.
		template = append([]string{"sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"`, "sh"}, i.fleet.Activated...)
	}
	command := i.fleet.command(name, template, i.values())
	if i.held != nil {
		command.Files = []*os.File{i.held}
	}
	started, err := process.Start(command)
	i.fleet.t.Must(err, "start the plugin")
	i.Process = started
	i.fleet.t.Cleanup(func() { started.Kill() })
}

// Start starts the plugin and waits until it answers.
func (i *Instance) Start() time.Duration {
	begin := time.Now()
	i.Launch()
	i.fleet.t.Within(Seconds(i.fleet.Within.Start), "the plugin answers after its start", func() error {
		if err := i.Alive(); err != nil {
			i.fleet.t.Failf("%v", err)
		}
		_, err := i.Ask(CallTimeout)
		return err
	})
	return time.Since(begin)
}

// Client is the plain client of Kubernetes, on a connection of its own.
func (i *Instance) Client(timeout time.Duration) (service.Service, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	client, err := kmsv2.NewGRPCService(ctx, i.Endpoint(), "plain", timeout)
	i.fleet.t.Must(err, "make a client")
	return client, cancel
}

// Ask asks for the status on a fresh connection, so that no back-off of an earlier one delays it.
func (i *Instance) Ask(timeout time.Duration) (*service.StatusResponse, error) {
	client, cancel := i.Client(timeout)
	defer cancel()
	return client.Status(context.Background())
}

// KeyID is what the plugin says now.
func (i *Instance) KeyID() string {
	status, err := i.Ask(CallTimeout)
	i.fleet.t.Must(err, "ask plugin %d for its status", i.number)
	return status.KeyID
}

// Decrypts is how many Decrypt the plugin says that it has answered since it started; false if it cannot be asked.
func (i *Instance) Decrypts() (int, bool) {
	template := i.fleet.Description.Decrypts
	if len(template) == 0 {
		return 0, false
	}
	command := i.fleet.command("decrypts", template, i.values())
	i.fleet.t.Must(process.Run(command, time.Minute), "ask the plugin for its count")
	printed := process.Tail(command.Log, 1)
	count, err := strconv.Atoi(printed)
	i.fleet.t.Must(err, "the plugin's count")
	return count, true
}

// order gives an order: once, or to each of the instances if the command names one.
func (f *Fleet) order(name string, template []string, state string, instances []*Instance) {
	if !perInstance(template) {
		values := map[string]string{"state": state}
		f.t.Must(process.Run(f.command(name, template, values), time.Minute), "order: %s %s", name, state)
		return
	}
	for _, instance := range instances {
		values := instance.values()
		values["state"] = state
		f.t.Must(process.Run(f.command(name, template, values), time.Minute), "order: %s %s", name, state)
	}
}

// Rotate orders a new key, and waits until every instance names it.
func (f *Fleet) Rotate() string {
	old := f.instances[0].KeyID()
	f.OrderRotation()
	return f.Follow(old, Seconds(f.Within.Rotate), "name the new key")
}

// OrderRotation orders a new key.
func (f *Fleet) OrderRotation() { f.order("rotate", f.Description.Rotate, "", f.instances) }

// Follow waits until all instances have left this key for the same other one, which it tells.
func (f *Fleet) Follow(old string, limit time.Duration, doing string) string {
	next := ""
	f.t.Within(limit, "all instances "+doing, func() error {
		next = f.instances[0].KeyID()
		for _, instance := range f.instances {
			if id := instance.KeyID(); id == old || id != next {
				return fmt.Errorf("the status of instance %d names %q, the first one %q, and it was %q", instance.number, id, next, old)
			}
		}
		return nil
	})
	return next
}

// SetOutage takes the backend away or gives it back.
func (f *Fleet) SetOutage(on bool) { f.order("outage", f.Description.Outage, state(on), f.instances) }

// SetDegraded takes a member away or gives it back, for these instances.
func (f *Fleet) SetDegraded(on bool, instances ...*Instance) {
	f.order("degrade", f.Description.Degrade, state(on), instances)
}

// Retirable asks whether the key whose id has this hash may be retired. The folder holds a file of metrics of each
// apiserver, as many as there are said to be.
func (f *Fleet) Retirable(provider, old string, apiservers int, metrics string) bool {
	values := f.instances[0].values()
	values["provider"], values["old"], values["apiservers"], values["metrics"] = provider, old, strconv.Itoa(apiservers), metrics
	err := process.Run(f.command("retirable", f.Description.Retirable, values), time.Minute)
	var ended *exec.ExitError
	if errors.As(err, &ended) && ended.ExitCode() == 1 {
		return false
	}
	f.t.Must(err, "judge whether a key may be retired")
	return true
}

// Shared is the directory that the instances share.
func (f *Fleet) Shared() string { return f.dir }

func state(on bool) string {
	if on {
		return "on"
	}
	return "off"
}
