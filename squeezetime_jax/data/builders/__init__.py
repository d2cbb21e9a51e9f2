"""TFDS builders of public video data sets, from files that the user has downloaded.

They run without TensorFlow and write ArrayRecord shards that `sources.ShardSource` opens:

    builder = builders.Kinetics400(data_dir="data", config="video256")
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir="downloads/kinetics400")
    )
"""

from squeezetime_jax.data.builders.hmdb51 import Hmdb51
from squeezetime_jax.data.builders.kinetics import Kinetics400, Kinetics600
from squeezetime_jax.data.builders.something_something import SomethingSomethingV2

__all__ = ["Hmdb51", "Kinetics400", "Kinetics600", "SomethingSomethingV2"]
