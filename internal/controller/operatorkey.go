package controller

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"postern.dev/postern/internal/audit"
)

// The Secret and the ConfigMap of the operator's key have one name.
const (
	operatorKeyName    = "postern-operator-key"
	operatorKeyPrivate = "operator.key"
	operatorKeyPublic  = "operator.pub"
)

// ensureOperatorKey makes the key that certifies the agents' logs, unless it is
// there, and publishes its public half, which `postern audit verify` needs.
func (c *controller) ensureOperatorKey(ctx context.Context) error {
	secrets := c.core.CoreV1().Secrets(c.o.Namespace)
	secret, err := secrets.Get(ctx, operatorKeyName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		private, _, generated := audit.GenerateOperatorKey()
		if generated != nil {
			return fmt.Errorf("make operator key: %w", generated)
		}
		secret, err = secrets.Create(ctx, &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Name: operatorKeyName},
			StringData: map[string]string{operatorKeyPrivate: private + "\n"},
		}, metav1.CreateOptions{})
		switch {
		case err == nil:
			c.o.Log.WithField("secret", operatorKeyName).Info("Operator key made")
		case apierrors.IsAlreadyExists(err): // made by somebody else meanwhile: that one counts
			secret, err = secrets.Get(ctx, operatorKeyName, metav1.GetOptions{})
		}
	}
	if err != nil {
		return fmt.Errorf("make operator key: %w", err)
	}
	public, err := audit.PublicOperatorKey(secret.Data[operatorKeyPrivate])
	if err != nil {
		return fmt.Errorf("read Secret %s: %w; delete it to have a new key made", operatorKeyName, err)
	}
	_, err = c.core.CoreV1().ConfigMaps(c.o.Namespace).Create(ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: operatorKeyName},
		Data:       map[string]string{operatorKeyPublic: public + "\n"},
	}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("publish operator key: %w", err)
	}
	return nil
}
