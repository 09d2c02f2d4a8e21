"""Which emoji are shown under which name and category, and how scenes of them are drawn."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from kdrun.data.bundles import read_bundle
from kdrun.domains.vision_language.shipped.scenes import Scene
from kdrun.problems import UserError

FILES = ("emoji.json", "emoji-twitter.tar", "emoji-google.tar")
STYLES = ("twitter", "google")
BACKGROUNDS = ((255, 255, 255), (235, 235, 235), (215, 225, 235), (235, 225, 210), (215, 235, 220), (200, 200, 205))
WIDTH = 0.86
"""Of an emoji, in cells."""

# category -> emoji: the short name of emoji.json where it is a plain word for what is shown, else name=short name.
_CATEGORIES = {
    "animal": """rat mouse=mouse2 ox cow=cow2 tiger=tiger2 leopard rabbit=rabbit2 cat=cat2 horse=racehorse ram goat sheep monkey
        dog=dog2 pig=pig2 boar elephant koala poodle camel hamster wolf bear panda=panda_face chipmunk lion=lion_face bat
        fox=fox_face deer gorilla rhinoceros giraffe=giraffe_face zebra=zebra_face hedgehog kangaroo llama hippopotamus raccoon
        badger mammoth sloth otter orangutan skunk beaver bison moose donkey unicorn=unicorn_face crocodile snake turtle lizard
        frog dragon""",
    "bird": "rooster chicken penguin dove=dove_of_peace turkey eagle duck owl peacock parrot swan dodo flamingo goose",
    "bug": "snail ant bee ladybug spider scorpion butterfly cricket mosquito worm beetle cockroach fly",
    "sea animal": """whale=whale2 octopus fish blowfish dolphin crab shark shrimp squid lobster oyster seal coral jellyfish
        shell""",
    "fruit": """grape=grapes melon watermelon tangerine lime lemon banana pineapple apple pear peach cherry=cherries strawberry
        kiwi=kiwifruit coconut mango blueberry=blueberries olive""",
    "vegetable": """corn eggplant avocado cucumber potato carrot broccoli garlic onion chili=hot_pepper pepper=bell_pepper
        lettuce=leafy_green pea=pea_pod bean=beans ginger=ginger_root tomato""",
    "dish": """hotdog taco burrito hamburger pizza stew croissant salad=green_salad pancake=pancakes pretzel sandwich bagel
        falafel waffle dumpling curry bento sushi omelette=fried_egg baguette=baguette_bread""",
    "sweet": "doughnut cookie chocolate=chocolate_bar candy lollipop custard cake pie cupcake dango sundae=ice_cream",
    "drink": """tea sake wine=wine_glass cocktail beer champagne milk=glass_of_milk coffee juice=beverage_box mate=mate_drink
        soda=cup_with_straw""",
    "vehicle": """motorcycle=racing_motorcycle locomotive=steam_locomotive tram bus trolleybus minibus ambulance taxi car truck
        tractor monorail bike scooter skateboard pickup=pickup_truck rickshaw=auto_rickshaw lorry=articulated_lorry helicopter
        airplane rocket ship speedboat canoe ferry sailboat=boat""",
    "garment": """tophat crown necktie shirt dress kimono bikini purse handbag shoe=mans_shoe sneaker=athletic_shoe sandal boot
        sari scarf glove=gloves coat sock=socks cap=billed_cap hat=womans_hat ring""",
    "instrument": """saxophone guitar trumpet violin drum=drum_with_drumsticks maraca=maracas flute harp banjo accordion
        piano=musical_keyboard""",
    "tool": """wrench hammer shovel axe saw=carpentry_saw screwdriver ladder hook gear magnet toolbox pick broom bucket razor
        plunger""",
    "plant": """tulip rose hibiscus sunflower lotus hyacinth cactus bouquet seedling fir=evergreen_tree palm=palm_tree mushroom
        bamboo shamrock""",
    "building": """house hospital bank hotel school factory church mosque synagogue stadium tent hut castle=european_castle
        skyscraper=office""",
}
CATEGORIES = {
    category: {(word := item.partition("="))[0]: word[2] or word[0] for item in items.split()}
    for category, items in _CATEGORIES.items()
}


class EmojiPainter:
    """Draws scenes of emoji on a 2x2 grid, size x size pixels.

    files: paths of FILES
    Raises UserError where they do not hold what is needed.
    """

    def __init__(self, size: int, files: dict[str, Path]) -> None:
        self.size, self.cell, self.files = size, size / 2, files
        self.scaled: dict[tuple[str, str], Image.Image] = {}

    @cached_property
    def sprites(self) -> dict[tuple[str, str], Image.Image]:
        """RGBA pictures by style and name, in the size they are shipped."""
        found = {}
        try:
            pictures = {
                entry["short_name"]: entry["image"] for entry in json.loads(self.files["emoji.json"].read_bytes())
            }
            named = {name: pictures[short] for shown in CATEGORIES.values() for name, short in shown.items()}
            for style in STYLES:
                contents = read_bundle(self.files[f"emoji-{style}.tar"], set(named.values()))
                for name, picture in named.items():
                    with Image.open(io.BytesIO(contents[picture])) as image:
                        found[style, name] = image.convert("RGBA")
        except FileNotFoundError as error:
            raise UserError(
                f"data.root has no {error.filename}", "leave data.root out and: kdrun fetch emoji"
            ) from None
        except (KeyError, ValueError, TypeError, OSError, tarfile.TarError) as error:
            where = self.files["emoji.json"].parent
            raise UserError(
                f"{where} does not hold the emoji that are needed: {error!r}", "kdrun fetch emoji"
            ) from error
        return found

    @cached_property
    def digest(self) -> str:
        found = hashlib.sha256(repr((self.size, BACKGROUNDS, WIDTH)).encode())
        for (style, name), sprite in self.sprites.items():
            found.update(f"{style}/{name}/{sprite.size}".encode())
            found.update(np.asarray(sprite).tobytes())
        return found.hexdigest()

    def paint(self, scene: Scene) -> Image.Image:
        picture = Image.new("RGB", (self.size, self.size), BACKGROUNDS[scene.background])
        for thing in scene.things:
            sprite = self._sprite(scene.style, thing.kind)
            picture.paste(sprite, thing.corner(2, self.cell, sprite.width), sprite)
        return picture

    def _sprite(self, style: str, name: str) -> Image.Image:
        if (style, name) not in self.scaled:
            width = round(self.cell * WIDTH)
            # Colours are weighted by how opaque they are: what is behind transparent pixels does not bleed in.
            scaled = self.sprites[style, name].convert("RGBa").resize((width, width), Image.Resampling.LANCZOS)
            self.scaled[style, name] = scaled.convert("RGBA")
        return self.scaled[style, name]
