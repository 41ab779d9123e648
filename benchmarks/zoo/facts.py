"""Tables of facts that the zoo's knowledge tasks ask for, in five grades of fifteen.

Grade 1 holds what everybody knows; each grade after it is rarer. A model only knows what it has memorised.
"""

from __future__ import annotations

_CAPITALS = (
    "France:Paris Italy:Rome Spain:Madrid Japan:Tokyo China:Beijing Germany:Berlin Russia:Moscow "
    "Egypt:Cairo Greece:Athens England:London Ireland:Dublin Portugal:Lisbon Austria:Vienna Canada:Ottawa "
    "Turkey:Ankara",
    "Norway:Oslo Sweden:Stockholm Finland:Helsinki Denmark:Copenhagen Poland:Warsaw Hungary:Budapest "
    "Cuba:Havana Peru:Lima Kenya:Nairobi Iraq:Baghdad Iran:Tehran Thailand:Bangkok Belgium:Brussels "
    "Australia:Canberra Chile:Santiago",
    "Colombia:Bogota Ukraine:Kyiv Romania:Bucharest Bulgaria:Sofia Serbia:Belgrade Croatia:Zagreb "
    "Vietnam:Hanoi Nepal:Kathmandu Pakistan:Islamabad Morocco:Rabat Algeria:Algiers Tunisia:Tunis "
    "Libya:Tripoli Syria:Damascus Jordan:Amman",
    "Latvia:Riga Lithuania:Vilnius Estonia:Tallinn Slovenia:Ljubljana Slovakia:Bratislava Albania:Tirana "
    "Iceland:Reykjavik Ghana:Accra Senegal:Dakar Uganda:Kampala Zambia:Lusaka Uruguay:Montevideo "
    "Venezuela:Caracas Ecuador:Quito Jamaica:Kingston",
    "Bhutan:Thimphu Laos:Vientiane Mongolia:Ulaanbaatar Armenia:Yerevan Georgia:Tbilisi Azerbaijan:Baku "
    "Moldova:Chisinau Malta:Valletta Rwanda:Kigali Malawi:Lilongwe Namibia:Windhoek Botswana:Gaborone "
    "Mali:Bamako Niger:Niamey Fiji:Suva",
)

_OPPOSITES = (
    "hot:cold big:small up:down yes:no good:bad day:night black:white open:closed young:old fast:slow "
    "happy:sad left:right wet:dry full:empty high:low",
    "early:late rich:poor hard:soft light:heavy clean:dirty strong:weak long:short near:far thick:thin "
    "loud:quiet true:false win:lose buy:sell push:pull front:back",
    "deep:shallow wide:narrow rough:smooth sharp:blunt brave:cowardly cheap:expensive safe:dangerous "
    "asleep:awake alive:dead raw:cooked tight:loose polite:rude simple:complex ancient:modern "
    "guilty:innocent",
    "expand:contract accept:reject increase:decrease arrive:depart attack:defend borrow:lend float:sink "
    "praise:blame victory:defeat entrance:exit humble:proud generous:stingy temporary:permanent "
    "private:public vertical:horizontal",
    "abundant:scarce transparent:opaque optimist:pessimist maximum:minimum convex:concave ascend:descend "
    "artificial:natural reveal:conceal diligent:lazy frugal:wasteful acquit:convict lenient:strict "
    "inhale:exhale zenith:nadir novice:expert",
)

_PAST_TENSES = (
    "go:went see:saw eat:ate run:ran come:came take:took give:gave make:made get:got say:said have:had "
    "do:did know:knew think:thought find:found",
    "write:wrote drink:drank sing:sang swim:swam begin:began break:broke speak:spoke drive:drove fly:flew "
    "buy:bought bring:brought catch:caught teach:taught sleep:slept keep:kept",
    "leave:left feel:felt tell:told stand:stood hold:held meet:met pay:paid send:sent build:built "
    "lose:lost fall:fell grow:grew throw:threw draw:drew wear:wore",
    "choose:chose freeze:froze steal:stole wake:woke bite:bit hide:hid shake:shook forget:forgot "
    "forgive:forgave tear:tore swear:swore dig:dug stick:stuck hang:hung lend:lent",
    "weave:wove strive:strove cling:clung sling:slung shrink:shrank slay:slew tread:trod smite:smote "
    "bind:bound grind:ground flee:fled kneel:knelt weep:wept sweep:swept creep:crept",
)

_KINDS = (
    "dog:animal cat:animal cow:animal apple:fruit banana:fruit pear:fruit carrot:vegetable "
    "potato:vegetable hammer:tool saw:tool car:vehicle bus:vehicle piano:instrument guitar:instrument "
    "tennis:sport",
    "horse:animal lion:animal cherry:fruit grape:fruit onion:vegetable cabbage:vegetable drill:tool "
    "wrench:tool truck:vehicle bicycle:vehicle violin:instrument drum:instrument football:sport "
    "rose:flower tulip:flower",
    "otter:animal badger:animal mango:fruit papaya:fruit spinach:vegetable turnip:vegetable chisel:tool "
    "pliers:tool tram:vehicle ferry:vehicle cello:instrument trumpet:instrument hockey:sport iron:metal "
    "copper:metal",
    "lynx:animal tapir:animal lychee:fruit guava:fruit leek:vegetable radish:vegetable mallet:tool "
    "trowel:tool barge:vehicle sledge:vehicle oboe:instrument banjo:instrument rugby:sport orchid:flower "
    "zinc:metal",
    "okapi:animal quokka:animal durian:fruit quince:fruit kohlrabi:vegetable salsify:vegetable awl:tool "
    "adze:tool rickshaw:vehicle gondola:vehicle lute:instrument zither:instrument polo:sport peony:flower "
    "cobalt:metal",
)


def _graded(rows: tuple[str, ...]) -> tuple[tuple[tuple[str, str], ...], ...]:
    pairs = ((tuple(pair.split(":")) for pair in row.split()) for row in rows)
    return tuple(tuple((question, answer) for question, answer in row) for row in pairs)


FACTS: dict[str, tuple[tuple[tuple[str, str], ...], ...]] = {
    "capital": _graded(_CAPITALS),
    "opposite": _graded(_OPPOSITES),
    "past_tense": _graded(_PAST_TENSES),
    "kind": _graded(_KINDS),
}
"""task -> five grades -> pairs (asked word, answer)."""


def fact_words() -> set[str]:
    """Every word that stands in a table, as question or as answer."""
    return {word for grades in FACTS.values() for grade in grades for pair in grade for word in pair}
