package library

import (
	"fmt"
	"slices"
	"time"

	"bulla.test/clients/check"
	"bulla.test/clients/plugin"
)

type suite struct {
	*plugin.Description
	bin string
}

func (s *suite) fleet(t *check.T) *plugin.Fleet { return plugin.NewFleet(t, s.Description) }

// Releases are those of which a plain client is built; ../plain has a module for each.
var Releases = []string{"0.29", "0.30", "0.31", "0.32", "0.36"}

// The library asks a healthy plugin at most every 20 seconds, and one call may take three.
const probe = 25 * time.Second

// Cases are those of the client library. bin is the folder of the harness's programs.
func Cases(description *plugin.Description, bin string) []check.Case {
	s := &suite{description, bin}
	within := description.Within
	orders := plugin.Seconds(2*within.Rotate + 2*within.Outage + 4*within.Degrade + 4*within.Start + within.Stop)
	var cases []check.Case
	add := func(name, skip string, run func(*suite, *check.T)) {
		cases = append(cases, check.Case{
			Name: name, Skip: skip, Limit: 3*time.Minute + orders, Run: func(t *check.T) { run(s, t) },
		})
	}
	rotate := NotAsked("rotate", len(description.Rotate) > 0)
	degrade := NotAsked("degrade", len(description.Degrade) > 0)
	oneAlone := degrade
	if degrade == "" && !description.OneAlone() {
		oneAlone = "not asked of this plugin: `degrade` does not name {instance}"
	}
	add("latency", "", latency)
	cases[0].Alone = true
	add("outage", NotAsked("outage", len(description.Outage) > 0), outage)
	add("rotation", rotate, rotation)
	add("degraded_member", degrade, degradedMember)
	add("degraded_plane", oneAlone, degradedPlane)
	add("kill_and_restart", "", killAndRestart)
	add("hang", "", hang)
	add("late_start", "", lateStart)
	add("activation", NotAsked("activated", len(description.Activated) > 0), activation)
	add("terminate", "", terminate)
	add("two_planes", "", twoPlanes)
	add("two_planes_rotation", rotate, twoPlanesRotation)
	add("write_and_read", "", writeAndRead)
	add("status", "", status)
	add("encrypt_limits", "", encryptLimits)
	add("round_trip", "", roundTrip)
	add("tampered", "", tampered)
	add("key_id_mismatch", "", keyIDMismatch)
	add("leaks", "", leaks)
	for _, release := range Releases {
		client := func(kind string, asked []string) {
			skip := NotAsked(release+"` in `clients."+kind, slices.Contains(asked, release))
			add(fmt.Sprintf("client_%s_%s", release, kind), skip, func(s *suite, t *check.T) { plain(s, t, release, kind) })
		}
		client("path", description.Clients.Path)
		client("abstract", description.Clients.Abstract)
	}
	return cases
}

// NotAsked is why a case is skipped if the description does not have what it needs.
func NotAsked(field string, given bool) string {
	if given {
		return ""
	}
	return fmt.Sprintf("not asked of this plugin: its description has no `%s`", field)
}
