package registry

import (
	"slices"
	"testing"
	"time"
)

func TestWhatNothingRefersToIsDropped(t *testing.T) {
	now := time.Unix(1e9, 0)
	long := now.Add(-untaggedAge)
	old := func(parts ...string) *manifest { return &manifest{Wanted: long, Manifests: parts} }
	about := func(subject string) *manifest { return &manifest{Wanted: long, Subject: subject} }
	for _, c := range []struct {
		name   string
		repo   repo
		images map[string]kept
		want   plan
	}{
		{name: "untagged for long", repo: repo{Manifests: map[string]*manifest{"a": old()}},
			want: plan{drop: []string{"a"}}},
		{name: "untagged a moment ago", repo: repo{Manifests: map[string]*manifest{"a": {Wanted: now}}},
			want: plan{lease: []string{"a"}}},
		{name: "artifact with a tag", repo: repo{Manifests: map[string]*manifest{"a": old()}, Tags: map[string]tagged{"1": {Digest: "a"}}},
			want: plan{lease: []string{"a"}}},
		{name: "image with a tag is kept by the image store", repo: repo{Manifests: map[string]*manifest{"a": old()}, Tags: map[string]tagged{"1": {"a", true}}},
			images: map[string]kept{"1": {digest: "a"}}, want: plan{}},
		{name: "index with all its parts", repo: repo{Manifests: map[string]*manifest{"i": old("a", "j"), "j": old("b"), "a": old(), "b": old(), "c": old()}, Tags: map[string]tagged{"1": {"i", true}}},
			images: map[string]kept{"1": {"a", "i"}}, want: plan{drop: []string{"c"}}},
		{name: "image removed by the user, just after its push", repo: repo{Manifests: map[string]*manifest{"i": {Wanted: now, Manifests: []string{"a"}}, "a": {Wanted: now}}, Tags: map[string]tagged{"1": {"i", true}}},
			want: plan{tags: []string{"1"}, drop: []string{"a", "i"}}},
		{name: "removed image that is part of an index", repo: repo{Manifests: map[string]*manifest{"i": old("a"), "a": old()}, Tags: map[string]tagged{"1": {"a", true}, "2": {"i", false}}},
			want: plan{tags: []string{"1"}, lease: []string{"a", "i"}}},
		{name: "tag that a load moved", repo: repo{Manifests: map[string]*manifest{"a": old()}, Tags: map[string]tagged{"1": {"a", true}}},
			images: map[string]kept{"1": {digest: "z"}}, want: plan{tags: []string{"1"}, drop: []string{"a"}}},
		{name: "signatures stay with what they sign", repo: repo{
			Manifests: map[string]*manifest{"a": old(), "sig": about("a"), "sigsig": about("sig"), "stray": about("gone")},
			Tags:      map[string]tagged{"1": {"a", true}}},
			images: map[string]kept{"1": {digest: "a"}}, want: plan{lease: []string{"sig", "sigsig"}, drop: []string{"stray"}}},
		{name: "tag of nothing", repo: repo{Tags: map[string]tagged{"1": {Digest: "a"}}},
			want: plan{tags: []string{"1"}}},
	} {
		got := c.repo.decide(c.images, now)
		if !slices.Equal(got.tags, c.want.tags) || !slices.Equal(got.drop, c.want.drop) || !slices.Equal(got.lease, c.want.lease) {
			t.Errorf("%s: got %+v, want %+v", c.name, got, c.want)
		}
	}
}
