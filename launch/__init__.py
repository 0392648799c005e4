"""Starting vtjax on several hosts: python -m launch.local, launch.tpu, launch.gke, launch.slurm, launch.watch."""
