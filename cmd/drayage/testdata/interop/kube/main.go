// Kube holds files of Kubernetes objects against the API's own types: unknown fields
// and wrong kinds of values are errors.
//
//	kube FILE.yaml...
package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"log"
	"os"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
	strict "sigs.k8s.io/yaml"
)

func main() {
	log.SetFlags(0)
	for _, path := range os.Args[1:] {
		if err := check(path); err != nil {
			log.Fatalf("%s: %v", path, err)
		}
	}
}

func check(path string) error {
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	documents := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(raw)))
	for n := 1; ; n++ {
		doc, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := one(doc); err != nil {
			return fmt.Errorf("document %d: %w", n, err)
		}
	}
}

// one decodes one object into its type, by its kind.
func one(doc []byte) error {
	var kind struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
	}
	if err := strict.Unmarshal(doc, &kind); err != nil {
		return err
	}
	types := map[string]any{
		"v1 Namespace": &corev1.Namespace{}, "v1 ConfigMap": &corev1.ConfigMap{}, "apps/v1 DaemonSet": &appsv1.DaemonSet{}, "batch/v1 CronJob": &batchv1.CronJob{},
	}
	into, ok := types[kind.APIVersion+" "+kind.Kind]
	if !ok {
		return fmt.Errorf("no %s of %s is known here", kind.Kind, kind.APIVersion)
	}
	if err := strict.UnmarshalStrict(doc, into); err != nil {
		return err
	}
	if d, ok := into.(*appsv1.DaemonSet); ok {
		for k, v := range d.Spec.Selector.MatchLabels {
			if d.Spec.Template.Labels[k] != v {
				return fmt.Errorf("the selector's %s isn't the template's", k)
			}
		}
	}
	return nil
}
