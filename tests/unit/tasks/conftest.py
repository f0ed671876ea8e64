from support.disks import public_folder

__all__ = ["public_folder"]
