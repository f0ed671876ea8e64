from support.disks import other_disk, public_folder

__all__ = ["other_disk", "public_folder"]
