package library

import (
	"context"
	"fmt"
	"time"

	"bulla.test/clients/check"
	"bulla.test/clients/plugin"
)

// All objects of a plane share one seed, so the plugin is asked once to encrypt it, and once more to decrypt it after a
// restart of the apiserver.
func writeAndRead(s *suite, t *check.T) {
	instance := s.fleet(t).Started()
	plane := Open(t, instance)
	var objects []*Stored
	for number := range 200 {
		stored := plane.MustWrite(fmt.Sprintf("object-%d", number))
		plane.MustRead(stored, false)
		objects = append(objects, stored)
	}
	if plane.calls.encrypts.Load() != 1 || plane.calls.decrypts.Load() != 0 {
		t.Failf("200 objects took %d Encrypt and %d Decrypt", plane.calls.encrypts.Load(), plane.calls.decrypts.Load())
	}
	again := Open(t, instance)
	for _, stored := range objects {
		again.MustRead(stored, false)
	}
	if again.calls.decrypts.Load() != 1 {
		t.Failf("200 objects of one seed took %d Decrypt after a restart", again.calls.decrypts.Load())
	}
}

// A new key is seen, what is under the old one becomes stale, and both can be read, also after a restart of everything.
func rotation(s *suite, t *check.T) {
	fleet := s.fleet(t)
	instance := fleet.Started()
	plane := Open(t, instance)
	objects := []*Stored{plane.MustWrite("first")}
	for _, name := range []string{"second", "third"} {
		last := objects[len(objects)-1]
		fleet.Rotate()
		_, took := plane.Follows(last.KeyID, probe)
		t.Figure("the plane wrote under the new key after %.1f s", took.Seconds())
		for _, stored := range objects {
			plane.MustRead(stored, true)
		}
		next := plane.MustWrite(name)
		plane.MustRead(next, false)
		for _, stored := range objects {
			if stored.KeyID == next.KeyID {
				t.Failf("the key id %q is used for two keys", next.KeyID)
			}
		}
		objects = append(objects, next)
	}
	instance.Kill()
	instance.Start()
	again := Open(t, instance)
	for number, stored := range objects {
		again.MustRead(stored, number < 2)
	}
}

// While the backend is away, writes end with the window of three minutes, and reads of what is known go on. An apiserver
// goes on for ever if Status says in words that the plugin is not well; only an error stops it (kubernetes#138950).
func outage(s *suite, t *check.T) {
	fleet := s.fleet(t)
	instance := fleet.Started()
	plane := Open(t, instance)
	stored := plane.MustWrite("before")
	fleet.SetOutage(true)
	took := t.Within(plugin.Seconds(s.Within.Outage), "Status tells of the outage", func() error {
		status, err := instance.Ask(plugin.CallTimeout)
		if err == nil && status.Healthz == "ok" {
			return fmt.Errorf("it says %q", status.Healthz)
		}
		return nil
	})
	t.Figure("Status told of the outage after %.1f s", took.Seconds())
	plane.Unhealthy(probe)
	plane.MustWrite("in the window")
	plane.Clock().Forward(4 * time.Minute)
	asked := plane.calls.statuses.Load()
	t.Within(probe, "the plane asks again", func() error {
		_ = plane.Poll()
		if plane.calls.statuses.Load() < asked+2 {
			return fmt.Errorf("it has not")
		}
		return nil
	})
	_, err := plane.Write("after the window")
	t.Refused(err, "expired at", "a write 4 minutes into the outage")
	plane.MustRead(stored, false)
	fleet.SetOutage(false)
	took = plane.Healthy(plugin.Seconds(s.Within.Outage) + probe)
	t.Figure("writes went on %.1f s after the outage", took.Seconds())
	plane.MustRead(stored, false)
	Open(t, instance).MustRead(stored, false)
}

// pair are two control planes, each with a plugin of its own.
type pair struct {
	t     *check.T
	fleet *plugin.Fleet
	one   *plugin.Instance
	two   *plugin.Instance
	a, b  *Plane
	count int
}

func pairOf(s *suite, t *check.T) *pair {
	fleet := s.fleet(t)
	one, two := fleet.Started(), fleet.Started()
	return &pair{t: t, fleet: fleet, one: one, two: two, a: Open(t, one), b: Open(t, two)}
}

// cross writes through each and reads through the other, and gives what was written.
func (p *pair) cross() (fromA, fromB *Stored) {
	p.count++
	fromA = p.a.MustWrite(fmt.Sprintf("a-%d", p.count))
	fromB = p.b.MustWrite(fmt.Sprintf("b-%d", p.count))
	_, err := p.b.Read(fromA)
	p.t.Must(err, "read through the second plane what the first wrote")
	_, err = p.a.Read(fromB)
	p.t.Must(err, "read through the first plane what the second wrote")
	return fromA, fromB
}

func twoPlanes(s *suite, t *check.T) {
	pair := pairOf(s, t)
	if one, two := pair.one.KeyID(), pair.two.KeyID(); one != two {
		t.Failf("the instances name different keys: %q and %q", one, two)
	}
	fromA, fromB := pair.cross()
	pair.b.MustRead(fromA, false)
	pair.a.MustRead(fromB, false)
}

// At every moment of a rotation each plane reads what the other wrote, also when one is ahead; then both name one key.
func twoPlanesRotation(s *suite, t *check.T) {
	pair := pairOf(s, t)
	first, _ := pair.cross()
	pair.fleet.OrderRotation()
	t.Within(plugin.Seconds(s.Within.Rotate)+probe, "both planes write under one other key", func() error {
		_, _ = pair.a.Poll(), pair.b.Poll()
		fromA, fromB := pair.cross()
		if fromA.KeyID == first.KeyID || fromA.KeyID != fromB.KeyID {
			return fmt.Errorf("they write under %q and %q, and it was %q", fromA.KeyID, fromB.KeyID, first.KeyID)
		}
		pair.b.MustRead(fromA, false)
		pair.a.MustRead(fromB, false)
		return nil
	})
	pair.a.MustRead(first, true)
	pair.b.MustRead(first, true)
}

// With one member away everything goes on: for who runs, and for an apiserver that starts now. What is written then is
// under a key id of its own, so that it is seen to be stale once all members are back, and a rewrite mends it.
func degradedMember(s *suite, t *check.T) {
	limit := plugin.Seconds(s.Within.Degrade) + probe
	fleet := s.fleet(t)
	instance := fleet.Started()
	running := Open(t, instance)
	full := running.MustWrite("full")
	fleet.SetDegraded(true, instance)
	running.MustRead(full, false)
	running.MustWrite("full too")

	restarted := Open(t, instance)
	took := restarted.Healthy(limit)
	t.Figure("an apiserver that started with a member away wrote after %.1f s", took.Seconds())
	degraded := restarted.MustWrite("degraded")
	if degraded.KeyID == full.KeyID {
		t.Failf("what a member is missing from has the key id of what it is in: %q", full.KeyID)
	}
	restarted.MustRead(full, true)
	_, _ = running.Follows(full.KeyID, limit)
	_, err := running.Read(degraded)
	t.Must(err, "read through a running plane what was written degraded")

	fleet.SetDegraded(false, instance)
	for _, plane := range []*Plane{restarted, running} {
		mended, took := plane.Follows(degraded.KeyID, limit)
		t.Figure("full again after %.1f s", took.Seconds())
		if mended.KeyID != full.KeyID {
			t.Failf("with all members back the key id is %q, and was %q", mended.KeyID, full.KeyID)
		}
		plane.MustRead(full, false)
		plane.MustRead(degraded, true)
		plane.MustRead(plane.MustWrite("degraded"), false)
	}
}

// One of two planes misses a member: each reads what the other writes, and in the end both are full.
func degradedPlane(s *suite, t *check.T) {
	limit := plugin.Seconds(s.Within.Degrade) + probe
	pair := pairOf(s, t)
	full, _ := pair.cross()
	pair.fleet.SetDegraded(true, pair.two)
	pair.b.close()
	pair.b = Open(t, pair.two)
	pair.b.Healthy(limit)
	fromA, fromB := pair.cross()
	if fromA.KeyID != full.KeyID || fromB.KeyID == full.KeyID {
		t.Failf("with a member away from the second instance alone the key ids are %q and %q, and %q before",
			fromA.KeyID, fromB.KeyID, full.KeyID)
	}
	pair.a.MustRead(fromB, true)
	pair.fleet.SetDegraded(false, pair.two)
	mended, _ := pair.b.Follows(fromB.KeyID, limit)
	if mended.KeyID != full.KeyID {
		t.Failf("with all members back the key id is %q, and was %q", mended.KeyID, full.KeyID)
	}
	pair.cross()
	pair.b.MustRead(fromA, false)
	pair.b.MustRead(fromB, true)
	pair.a.MustRead(mended, false)
	if status, err := pair.b.calls.Status(context.Background()); err != nil || status.KeyID != full.KeyID {
		t.Failf("the plugin names %v, %v", status, err)
	}
}
