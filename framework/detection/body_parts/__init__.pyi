from .people import People as People
from .people import PeopleTable as PeopleTable
from .people import pad_people as pad_people
from .people import people_of as people_of
