from .annotations import AnnotatedImage as AnnotatedImage
from .body_parts import BodyParts as BodyParts
from .bodyhands import read_bodyhands as read_bodyhands
from .coco import read_coco_humanparts as read_coco_humanparts
from .coco import read_coco_wholebody as read_coco_wholebody
from .coco import read_visible_bodies as read_visible_bodies
from .crowdhuman import read_crowdhuman as read_crowdhuman
