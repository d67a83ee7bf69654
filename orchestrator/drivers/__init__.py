"""The world: libvirt, HAProxy, SSH, qemu-img, ISO files. Each maps foreign errors to ours in one place."""
