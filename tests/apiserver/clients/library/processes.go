package library

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"bulla.test/clients/check"
	"bulla.test/clients/plugin"
	"bulla.test/clients/process"
)

// The plugin comes after the apiserver.
func lateStart(s *suite, t *check.T) {
	instance := s.fleet(t).Instance()
	plane := Open(t, instance)
	_, err := plane.Write("early")
	t.Refused(err, "nil transformer", "a write before the plugin was there")
	time.Sleep(2 * time.Second)
	instance.Start()
	// grpc-go looks again after 1, 1.6, 2.6, … seconds.
	took := plane.Healthy(plugin.Seconds(s.Within.Start) + 10*time.Second)
	t.Figure("the plane wrote %.1f s after the plugin answered", took.Seconds())
	plane.MustRead(plane.MustWrite("late"), false)
}

// The plugin dies without a word, and comes back onto the socket that it left behind.
func killAndRestart(s *suite, t *check.T) {
	instance := s.fleet(t).Started()
	plane := Open(t, instance)
	before := plane.MustWrite("before")
	instance.Kill()
	plane.MustRead(before, false)
	during := plane.MustWrite("during")
	plane.Unhealthy(probe)
	plane.MustRead(during, false)
	instance.Start()
	took := plane.Healthy(probe)
	t.Figure("the plane was well %.1f s after the plugin was back", took.Seconds())
	again := Open(t, instance)
	for _, stored := range []*Stored{before, during, plane.MustWrite("after")} {
		again.MustRead(stored, false)
	}
}

// A plugin that hangs costs a call its timeout and not more, and is as before when it goes on.
func hang(s *suite, t *check.T) {
	instance := s.fleet(t).Started()
	plane := Open(t, instance)
	stored := plane.MustWrite("before")
	client := dial(t, instance)
	secret := seed()
	sealed := client.encrypt(secret)
	t.Must(instance.Freeze(), "stop the plugin")
	begin := time.Now()
	_, err := client.decrypt(sealed)
	t.Refused(err, "DeadlineExceeded", "a call to a plugin that hangs")
	if took := time.Since(begin); took > plugin.CallTimeout+time.Second {
		t.Failf("a call to a plugin that hangs took %s", took)
	}
	plane.MustRead(stored, false)
	plane.MustWrite("during")
	plane.Unhealthy(probe)
	instance.Thaw()
	took := plane.Healthy(10 * time.Second)
	t.Figure("the plane was well %.1f s after the plugin went on", took.Seconds())
	client.opens(sealed, secret)
	Open(t, instance).MustRead(stored, false)
}

// Somebody else holds the socket, as systemd does: what is asked while the plugin is away waits for it and is answered.
func activation(s *suite, t *check.T) {
	instance := s.fleet(t).Instance()
	instance.Hold()
	client := dial(t, instance)
	secret := seed()
	waits(t, instance, func() error {
		_, err := client.Status(context.Background())
		return err
	})
	answer := client.encrypt(secret)
	for range 3 {
		leave(instance)
		waits(t, instance, func() error {
			opened, err := client.decrypt(answer)
			if err == nil && !slices.Equal(opened, secret) {
				err = fmt.Errorf("another plaintext was answered")
			}
			return err
		})
	}
	plane := Open(t, instance)
	plane.MustRead(plane.MustWrite("after"), false)
}

// leave ends the plugin and leaves its socket held. A call that is on its way to who was killed fails, as it should, so it
// lets the client see that the connection ended.
func leave(instance *plugin.Instance) {
	instance.Kill()
	time.Sleep(200 * time.Millisecond)
}

// waits asks while the plugin is away, starts it half a second later, and demands an answer. On a busy machine a start, or
// what a plugin looks at then, may take longer than the client's patience of three seconds; then all of it is tried again.
func waits(t *check.T, instance *plugin.Instance, ask func() error) {
	const tries = 4
	for try := 1; ; try++ {
		answered := make(chan error, 1)
		go func() { answered <- ask() }()
		time.Sleep(500 * time.Millisecond)
		instance.Launch()
		err := <-answered
		late := err != nil && (strings.Contains(err.Error(), "DeadlineExceeded") || strings.Contains(err.Error(), "Unavailable"))
		if !late || try == tries {
			t.Must(err, "a call made while the plugin was away and its socket held")
			return
		}
		leave(instance)
	}
}

// At SIGTERM the plugin ends, although clients are connected and ask; and it comes back onto its socket.
func terminate(s *suite, t *check.T) {
	instance := s.fleet(t).Started()
	client := dial(t, instance)
	secret := seed()
	sealed := client.encrypt(secret)
	stop := make(chan struct{})
	var callers sync.WaitGroup
	for range 4 {
		callers.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(5 * time.Millisecond):
					_, _ = client.decrypt(sealed)
				}
			}
		})
	}
	time.Sleep(200 * time.Millisecond)
	begin := time.Now()
	err := instance.Terminate(plugin.Seconds(s.Within.Stop))
	took := time.Since(begin)
	close(stop)
	callers.Wait()
	t.Must(err, "end the plugin")
	t.Figure("the plugin ended %.2f s after SIGTERM", took.Seconds())
	instance.Start()
	dial(t, instance).opens(sealed, secret)
}

// Sixteen callers on one connection, as an apiserver has.
func latency(s *suite, t *check.T) {
	client := dial(t, s.fleet(t).Started())
	secret := seed()
	sealed := client.encrypt(secret)
	ask := map[string]func() error{
		"Status":  func() error { _, err := client.Status(context.Background()); return err },
		"Encrypt": func() error { _, err := client.Encrypt(context.Background(), "uid", seed()); return err },
		"Decrypt": func() error { _, err := client.decrypt(sealed); return err },
	}
	limit := time.Duration(s.P99) * time.Millisecond
	for _, method := range []string{"Status", "Encrypt", "Decrypt"} {
		times, err := measure(ask[method])
		t.Must(err, "%s", method)
		slices.Sort(times)
		p50, p99 := times[len(times)/2], times[len(times)*99/100]
		t.Figure("%s of 16 callers: p50 %.2f ms, p99 %.2f ms, %d calls in 2 s", method, milliseconds(p50), milliseconds(p99), len(times))
		if p99 > limit {
			t.Failf("the p99 of %s is %s; p99_ms allows %s", method, p99, limit)
		}
	}
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func measure(ask func() error) ([]time.Duration, error) {
	var lock sync.Mutex
	var all []time.Duration
	var failed error
	var callers sync.WaitGroup
	end := time.Now().Add(2 * time.Second)
	for range 16 {
		callers.Go(func() {
			for time.Now().Before(end) {
				begin := time.Now()
				err := ask()
				took := time.Since(begin)
				lock.Lock()
				all = append(all, took)
				if err != nil {
					failed = err
				}
				lock.Unlock()
			}
		})
	}
	callers.Wait()
	return all, failed
}

// A client of this release, in a program of its own.
func plain(s *suite, t *check.T, release, kind string) {
	fleet := s.fleet(t)
	instance := fleet.Instance()
	if kind == "abstract" {
		instance = fleet.Abstract()
	}
	instance.Start()
	t.Must(process.Run(process.Command{
		Name: "client-" + release,
		Args: []string{filepath.Join(s.bin, "client-"+release), instance.Endpoint()},
		Log:  filepath.Join(t.Dir, "client.log"),
	}, time.Minute), "a client of Kubernetes 1%s", release[1:])
}
