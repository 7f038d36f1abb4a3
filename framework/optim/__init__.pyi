from .lion import LionK as LionK
