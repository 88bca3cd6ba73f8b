"""The data sets, a card each: what the official set contains, its terms, and how to tell that nothing is missing."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Dataset:
    """A card. `size` is pixels a side, as text where it varies; `train` is the share the paper's lineage trains on.

    counts: images of each class, {} where no source gives them; unlabelled: images without a public label; layout: how
    the files come; complete: how to check, beside counting, that nothing is missing.
    """

    name: str
    title: str
    classes: int
    images: int
    size: str
    train: float | None
    terms: str
    citation: str
    where: str
    layout: str
    complete: str
    counts: dict[str, int] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    unlabelled: int = 0
    channels: tuple[int, ...] = (3,)

    @property
    def class_names(self) -> tuple[str, ...]:
        """All class names, as the folders of the official set spell them; () where they are not known."""
        return self.names or tuple(self.counts)


def _each(count: int, names: str) -> dict[str, int]:
    return dict.fromkeys(names.split(), count)


_ROWS = [
    Dataset(
        name="scenes",
        title="Built-in scenes: land use from above, drawn by our own code",
        classes=16,
        images=3200,  # at the default images_per_class=200
        size="96",
        train=0.5,
        terms="BSD-3-Clause, like the code that draws them",
        citation="this repository, geofm_lib/scenes",
        where="built in",
        layout="drawn",
        complete="images_per_class of every class",
        names=tuple(
            "fields forest river beach dense_residential sparse_residential industrial parking_lot runway harbour "
            "roundabout intersection solar_farm golf_course storage_tanks orchard".split()
        ),
    ),
    Dataset(
        name="millionaid",
        title="Million-AID",
        classes=51,
        images=1_000_848,
        size="110 to 31,672",
        train=None,
        terms="Google Earth imagery, academic use",
        citation="Long et al. 2021, IEEE JSTARS 14:4205-4230",
        where="https://captain-whu.github.io/DiRS/",
        layout="train/<area>/<kind>/<class>/*.jpg (some without a kind), test/*.jpg unlabelled",
        complete="train.zip has MD5 1b40503cafa9b0601653ca36cd788852, test.zip 51a63ee3eeb1351889eacff349a983d8",
        names=tuple(
            "apartment apron bare_land baseball_field basketball_court beach bridge cemetery church commercial_area "
            "dam desert detached_house dry_field forest golf_course greenhouse ground_track_field helipad ice_land "
            "intersection island lake meadow mine mobile_home_park oil_field orchard paddy_field parking_lot pier "
            "quarry railway river road rock_land roundabout runway solar_power_plant sparse_shrub_land stadium "
            "storage_tank substation swimming_pool tennis_court terraced_field train_station viaduct "
            "wastewater_plant wind_turbine works".split()
        ),
        unlabelled=990_848,  # the test half: the paper pretrains on these
    ),
    Dataset(
        name="ucm",
        title="UC Merced Land Use",
        classes=21,
        images=2_100,
        size="256 (44 images 242 to 257)",
        train=0.5,
        terms="public domain (USGS National Map)",
        citation="Yang and Newsam 2010, ACM SIGSPATIAL GIS",
        where="http://weegee.vision.ucmerced.edu/datasets/landuse.html",
        layout="UCMerced_LandUse/Images/<class>/*.tif",
        complete="100 images of each class; UCMerced_LandUse.zip has MD5 5b7ec56793786b6dc8a908e8854ac0e4",
        counts=_each(
            100,
            "agricultural airplane baseballdiamond beach buildings chaparral denseresidential forest freeway "
            "golfcourse harbor intersection mediumresidential mobilehomepark overpass parkinglot river runway "
            "sparseresidential storagetanks tenniscourt",
        ),
    ),
    Dataset(
        name="aid",
        title="AID: Aerial Image Dataset",
        classes=30,
        images=10_000,
        size="600",
        train=0.2,
        terms="Google Earth imagery, academic use",
        citation="Xia et al. 2017, IEEE TGRS 55(7):3965-3981",
        where="https://captain-whu.github.io/AID/",
        layout="AID/<class>/*.jpg",
        complete="220 to 420 images a class, as listed on this card",
        counts={
            "Airport": 360, "BareLand": 310, "BaseballField": 220, "Beach": 400, "Bridge": 360, "Center": 260,
            "Church": 240, "Commercial": 350, "DenseResidential": 410, "Desert": 300, "Farmland": 370, "Forest": 250,
            "Industrial": 390, "Meadow": 280, "MediumResidential": 290, "Mountain": 340, "Park": 350, "Parking": 390,
            "Playground": 370, "Pond": 420, "Port": 380, "RailwayStation": 260, "Resort": 290, "River": 410,
            "School": 300, "SparseResidential": 300, "Square": 330, "Stadium": 290, "StorageTanks": 360, "Viaduct": 420,
        },
    ),
    Dataset(
        name="nwpu-resisc45",
        title="NWPU-RESISC45",
        classes=45,
        images=31_500,
        size="256",
        train=0.1,
        terms="Google Earth imagery, CC BY-NC 4.0",
        citation="Cheng, Han and Lu 2017, Proceedings of the IEEE 105(10):1865-1883",
        where="https://doi.org/10.1109/JPROC.2017.2675998",
        layout="NWPU-RESISC45/<class>/*.jpg",
        complete="700 images of each class; NWPU-RESISC45.zip has MD5 75206b2e16446591afa88e2628744886",
        counts=_each(
            700,
            "airplane airport baseball_diamond basketball_court beach bridge chaparral church circular_farmland "
            "cloud commercial_area dense_residential desert forest freeway golf_course ground_track_field harbor "
            "industrial_area intersection island lake meadow medium_residential mobile_home_park mountain overpass "
            "palace parking_lot railway railway_station rectangular_farmland river roundabout runway sea_ice ship "
            "snowberg sparse_residential stadium storage_tank tennis_court terrace thermal_power_station wetland",
        ),
    ),
    Dataset(
        name="eurosat",
        title="EuroSAT (Sentinel-2)",
        classes=10,
        images=27_000,
        size="64",
        train=None,
        terms="MIT; contains Copernicus Sentinel data",
        citation="Helber et al. 2019, IEEE JSTARS 12(7):2217-2226",
        where="https://github.com/phelber/EuroSAT",
        layout="2750/<class>/*.jpg (RGB) or ds/images/.../sentinel_2/tif/<class>/*.tif (13 bands)",
        complete="2,000 to 3,000 images a class; EuroSAT.zip (RGB) has MD5 c8fa014336c82ac7804f0398fcb19387, "
        "EuroSATallBands.zip (13 bands) 5ac12b3b2557aa56e1826e981e8e200e",
        counts={
            "AnnualCrop": 3000, "Forest": 3000, "HerbaceousVegetation": 3000, "Highway": 2500, "Industrial": 2500,
            "Pasture": 2000, "PermanentCrop": 2500, "Residential": 3000, "River": 2500, "SeaLake": 3000,
        },
        channels=(3, 13),
    ),
]  # fmt: skip
DATASETS: dict[str, Dataset] = {row.name: row for row in _ROWS}
DOWNLOADS = ("eurosat",)  # those that torchvision can fetch (data/sources.fetch)
