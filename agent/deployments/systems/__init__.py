"""What CI systems' environments and Argo's resources tell."""
